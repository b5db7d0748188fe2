"""`ModelHolder`: the model of one component, loaded when first needed, and the threads that async calls of it run in.

Imports neither framework, and torch only when a model is loaded.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from clara_model.checkpoint.options import LOAD_OPTIONS
from clara_model.components.checks import check_known

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

Result = TypeVar("Result")

_LOADING = ThreadPoolExecutor(1, thread_name_prefix="clara-load")
"""Where models are loaded and let go of for event loops; the loader does one at a time anyway."""


class ModelHolder:
    """The model of one component: loaded when first asked for, let go by `close`, loaded again when asked for again.

    Holders that name the same model share one copy of it, and the last `close` frees it. A `Clara` that was handed over
    is its owner's to close. Any number of threads may ask.

    ``holder = ModelHolder("clara-tiny", {"dtype": "float32"}); holder.get().rank(question, texts); holder.close()``
    """

    def __init__(
        self, model: str | os.PathLike[str] | Clara, options: Mapping[str, Any] | None = None, owner: str = "Clara"
    ) -> None:
        """Remember what to load; nothing is loaded here.

        Args:
            model: a folder, a bundled or hub name, or a `Clara`.
            options: of `Clara.load`; None stands for an option that is not given.
            owner: the class that errors name.

        Raises:
            TypeError: not a model, or an option that `Clara.load` does not have.
        """
        self._options = {name: value for name, value in (options or {}).items() if value is not None}
        self._owner = owner
        check_known(self._options, LOAD_OPTIONS, "model option", owner)
        self._name: str | None = None
        self._given: Clara | None = None
        if isinstance(model, (str, os.PathLike)):
            self._name = os.fspath(model)
        else:
            self._given = self._checked(model)
        self._clara: Clara | None = None
        self._lock = threading.RLock()

    def get(self, **options: Any) -> Clara:
        """The model, loaded if it is not; ``options`` are added to those of the constructor for this loading."""
        clara = self._clara
        if clara is None:
            with self._lock:
                clara = self._clara
                if clara is None:
                    clara = self._clara = self._given or self._load(options)
        return clara

    async def run_in_thread(
        self, call: Callable[..., Result], *args: Any, load: Callable[[], Clara] | None = None, **options: Any
    ) -> Result:
        """Run a call in one of the model's own threads; the event loop and its default executor stay free.

        ``load`` loads the model where it is not in memory (default: `get`).
        """
        load = self.get if load is None else load
        clara = load() if self.loaded else await _run(_LOADING, load)
        return await _run(clara.threads, call, *args, **options)

    async def aclose(self) -> None:
        """`close` without blocking the event loop."""
        await _run(_LOADING, self.close)

    def close(self) -> None:
        """Let go of the model; closing twice, or what was never loaded, is fine."""
        with self._lock:
            clara, self._clara = self._clara, None
        if clara is not None and clara is not self._given:
            clara.close()

    @property
    def loaded(self) -> bool:
        """Whether the model is held now."""
        return self._clara is not None

    @property
    def name(self) -> str:
        """What the model is called in the metadata of results."""
        if self._given is not None:
            return self._given.name
        return str(self._name)

    @property
    def saved_name(self) -> str:
        """The name to save.

        Raises:
            ValueError: the model was handed over as an object, which has no plain form.
        """
        if self._name is None:
            raise ValueError(f"a {self._owner} that was given a loaded Clara cannot be saved; give it the model's name")
        return self._name

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as the name and the options; the copy loads when it is asked."""
        return type(self), (self.saved_name, self._options, self._owner)

    def __deepcopy__(self, _: dict[int, Any]) -> ModelHolder:
        """Another holder of the same model; a model that was handed over is not copied."""
        return type(self)(self._given if self._given is not None else self.saved_name, self._options, self._owner)

    def _load(self, options: Mapping[str, Any]) -> Clara:
        from clara_model.inference.clara import Clara

        return Clara.load(str(self._name), **{**self._options, **options})

    def _checked(self, model: Any) -> Clara:
        """A model that was handed over, which cannot be told how to load."""
        from clara_model.inference.clara import Clara

        if not isinstance(model, Clara):
            raise TypeError(f"{self._owner}: model must be a name, a folder or a Clara, got {type(model).__name__}")
        if self._options:
            names = ", ".join(sorted(self._options))
            raise ValueError(f"{self._owner}: {names}: a Clara that is loaded already takes no options")
        return model


async def _run(threads: ThreadPoolExecutor, call: Callable[..., Result], *args: Any, **options: Any) -> Result:
    """Run a call in a thread, in the context of the task, as `asyncio.to_thread` does in the loop's own threads."""
    run = partial(contextvars.copy_context().run, call, *args, **options)
    return await asyncio.get_running_loop().run_in_executor(threads, run)

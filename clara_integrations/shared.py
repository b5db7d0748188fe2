"""What the components of both frameworks share: the model they hold, their rules, and reading a stream in asyncio.

Imports neither framework, and torch only when a model is loaded. The rules are the table of ``docs/edge-cases.md``.
Leaves out all arithmetic: that is ``clara_model``'s.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from clara_model.checkpoint import options

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from clara_model.inference.streaming import TextStream

Item = TypeVar("Item")
Model = "str | os.PathLike[str] | Clara"
"""A folder, a bundled or hub name, or a model that is loaded already."""

DEFAULT_MODEL = options.DEFAULT_MODEL
DEFAULT_TOP_K = 10
DEFAULT_DIMENSIONS = 1024
"""Size of an embedding that stands for a block of latents in a first-stage index."""

LOAD_OPTIONS = (*options.NAMES, "cache_bytes", "batch_tokens", "batch_size")
"""The keyword arguments of `clara_model.Clara.load`."""


class ModelHolder:
    """The model of one component: loaded when first asked for, let go by `close`, loaded again when asked for again.

    Holders that name the same model share one copy of it, and the last `close` frees it. A `Clara` that was handed over
    is its owner's to close. Any number of threads may ask.

    ``holder = ModelHolder("clara-tiny", {"dtype": "float32"}); holder.get().rank(question, texts); holder.close()``
    """

    def __init__(self, model: str | os.PathLike[str] | Clara, options: Mapping[str, Any] | None = None) -> None:
        """Remember what to load; nothing is loaded here.

        Args:
            model: a folder, a bundled or hub name, or a `Clara`.
            options: of `Clara.load`; None stands for an option that is not given.

        Raises:
            TypeError: not a model, or an option that `Clara.load` does not have.
        """
        self._options = {name: value for name, value in (options or {}).items() if value is not None}
        unknown = sorted(set(self._options) - set(LOAD_OPTIONS))
        if unknown:
            raise TypeError(f"unknown model option {', '.join(unknown)}; known are {', '.join(LOAD_OPTIONS)}")
        self._name: str | None = None
        self._given: Clara | None = None
        if isinstance(model, (str, os.PathLike)):
            self._name = os.fspath(model)
        else:
            self._given = _checked(model, self._options)
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
            return self._given.engine.loaded.name or "(in memory)"
        return str(self._name)

    @property
    def saved_name(self) -> str:
        """The name to save.

        Raises:
            ValueError: the model was handed over as an object, which has no plain form.
        """
        if self._name is None:
            raise ValueError("a component that was given a loaded Clara cannot be saved; give it the model's name")
        return self._name

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as the name and the options; the copy loads when it is asked."""
        return type(self), (self.saved_name, self._options)

    def __deepcopy__(self, _: dict[int, Any]) -> ModelHolder:
        """Another holder of the same model; a model that was handed over is not copied."""
        return type(self)(self._given if self._given is not None else self.saved_name, self._options)

    def _load(self, options: Mapping[str, Any]) -> Clara:
        from clara_model.inference.clara import Clara

        return Clara.load(str(self._name), **{**self._options, **options})


def _checked(model: Any, options: Mapping[str, Any]) -> Clara:
    """A model that was handed over, which cannot be told how to load."""
    from clara_model.inference.clara import Clara

    if not isinstance(model, Clara):
        raise TypeError(f"model must be a name, a folder or a Clara, got {type(model).__name__}")
    if options:
        raise ValueError(f"{', '.join(sorted(options))}: a Clara that is loaded already takes no options")
    return model


def check_top(value: int, name: str = "top_k") -> int:
    """A number of documents, at least 1.

    Raises:
        TypeError: not a whole number.
        ValueError: below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, but got {value!r}")
    if value <= 0:
        raise ValueError(f"{name} must be > 0, but got {value}")
    return value


def check_query(query: object) -> str:
    """A question that says something.

    Raises:
        TypeError: not a string.
        ValueError: blank.
    """
    if not isinstance(query, str):
        raise TypeError(f"query must be a string, but got {type(query).__name__}")
    if not query.strip():
        raise ValueError(f"query must not be blank, but got {query!r}")
    return query


def check_generation(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments for `Clara.answer`, which are checked there.

    Raises:
        ValueError: one that the component sets itself.
    """
    for name in ("top_k", "rerank"):
        if name in (options or {}):
            raise ValueError(
                f"{name} is an argument of the component, not of the generation; sampling from the best tokens is "
                "sampling_top_k"
            )
    return dict(options or {})


def best_copies(items: Iterable[Item], key: Callable[[Item], str], score: Callable[[Item], float | None]) -> list[Item]:
    """One item of each key: the one with the best score, the first of equals, where the key came first."""
    best: dict[str, Item] = {}
    for item in items:
        kept = best.get(key(item))
        if kept is None or _number(score(item)) > _number(score(kept)):
            best[key(item)] = item
    return list(best.values())


def _number(score: float | None) -> float:
    return -inf if score is None else score


def in_batches(items: list[Item], size: int | None) -> Iterator[list[Item]]:
    """Lists of at most ``size`` items, in order; one list where it is not given."""
    size = size or max(1, len(items))
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def read_stream(stream: TextStream[Any]) -> AsyncGenerator[str, None]:
    """The pieces of a stream as they are generated, while the loop goes on with other tasks.

    Leaving early ends the generation: ``async with contextlib.aclosing(read_stream(stream)) as pieces``.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | BaseException | None] = asyncio.Queue()

    def send(item: str | BaseException | None) -> None:
        try:
            loop.call_soon_threadsafe(queue.put_nowait, item)
        except RuntimeError:  # the loop is closed, so nobody reads
            threading.Thread(target=stream.close, name="clara-close", daemon=True).start()

    def read() -> None:
        try:
            for piece in stream:
                send(piece)
            send(None)
        except BaseException as error:  # raised again where the pieces are read
            send(error)

    threading.Thread(target=read, name="clara-read", daemon=True).start()
    ended = False
    try:
        while True:
            item = await queue.get()
            ended = not isinstance(item, str)
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        if not ended:  # close waits for the pass that is under way, so not on the loop
            threading.Thread(target=stream.close, name="clara-close", daemon=True).start()

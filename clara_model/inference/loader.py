"""One process-wide loader: callers that ask for one model share one copy of it, its thread and its cache of latents.

The loader itself holds a loaded model only weakly: each `Clara` holds it until it is closed (or
gone), and the last one to let go frees it. Loading happens one model at a time.
"""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from clara_model.checkpoint.config import read_json
from clara_model.checkpoint.files import CONFIG
from clara_model.checkpoint.options import LoadOptions
from clara_model.errors import ClaraError
from clara_model.inference.published import ClaraModel
from clara_model.inference.scheduler import Scheduler
from clara_model.store.cache import LatentCache

ASYNC_THREADS = 4
"""For the calls of event loops on one model: enough to tokenise, rank and store beside the one pass at a time."""


@dataclass(eq=False)
class Loaded:
    """A model in memory with what all who use it share."""

    model: ClaraModel
    scheduler: Scheduler
    """Runs its passes."""
    name: str | None = None
    """What it was loaded as; None for a model that was handed over."""
    cache: LatentCache | None = None
    """Of the latents it has made; None for a model that was handed over."""
    _threads: tuple[int, ThreadPoolExecutor] | None = None

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Where event loops run their calls, so that their default executor stays free; ends with the model."""
        if self._threads is None or self._threads[0] != os.getpid():  # a forked child has none of the parent's threads
            with _loading:
                if self._threads is None or self._threads[0] != os.getpid():
                    self._threads = os.getpid(), ThreadPoolExecutor(ASYNC_THREADS, thread_name_prefix="clara-async")
        return self._threads[1]


_loaded: weakref.WeakValueDictionary[Hashable, Loaded] = weakref.WeakValueDictionary()
_schedulers: weakref.WeakKeyDictionary[ClaraModel, Scheduler] = weakref.WeakKeyDictionary()
_loading = threading.RLock()


def wrap(model: ClaraModel) -> Loaded:
    """A model that is already in memory; all wrappers of one model share its scheduler, which ends with the model."""
    with _loading:
        scheduler = _schedulers.get(model)
        if scheduler is None:
            scheduler = _schedulers[model] = Scheduler()
            weakref.finalize(model, scheduler.close)  # at the end of the program too
        return Loaded(model, scheduler)


def load(name: str | Path, options: LoadOptions, cache_bytes: int) -> Loaded:
    """The model that these arguments name, loaded unless it is in memory.

    A checkpoint folder whose files have changed since is another model. The shared cache is as large as the largest
    ``cache_bytes`` asked for.
    """
    options = options.resolved()
    base = None if options.base_model is None else _identity(options.base_model, None)
    key = (_identity(name, options.subfolder), base, replace(options, base_model=None))
    with _loading:
        found = _loaded.get(key)
        if found is not None:
            if found.cache is not None:
                found.cache.resize(max(cache_bytes, found.cache.max_bytes))
            return found
        cache = LatentCache(cache_bytes)
        with _collecting_later():
            loaded = wrap(ClaraModel.from_options(name, options))
        if loaded.model.compiled is not None:
            loaded.scheduler.run(lambda _items, _check: loaded.model.record_usual_lengths())
        loaded.name, loaded.cache = str(name), cache
        _loaded[key] = loaded
        return loaded


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Loading makes half a million objects that stay; looking for garbage among them takes a sixth of its time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def loaded_models() -> list[str]:
    """The names under which models are in memory now, one for each copy."""
    return sorted(str(loaded.name) for loaded in _loaded.values())


def _identity(name: str | Path, subfolder: str | None) -> Hashable:
    """A hub or bundled name as it is; a folder by where it is and by its files and its base's, as they are now."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return str(name)
    inside = folder / subfolder if subfolder else folder
    return str(folder.resolve()), _contents(inside), _base_contents(inside)


def _contents(folder: Path) -> Hashable:
    """The files of a folder by name, size, times and place on the disk, any of which a change of one moves."""
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for name, stat in stats)


def _base_contents(folder: Path) -> Hashable:
    """The files of the base model that a checkpoint names, where that is a folder here."""
    try:
        values = read_json(folder / CONFIG)
    except (ClaraError, OSError):
        return None  # loading says what is wrong
    name = values.get("base_model") or values.get("decoder_model_name")
    if not isinstance(name, str) or not name:
        return None
    base = folder / name if name.startswith("./") else Path(name).expanduser()
    return (str(base.resolve()), _contents(base)) if base.is_dir() else None


def _after_fork() -> None:
    """In a forked child: no thread of the parent's is here to go on with loading."""
    global _loading
    _loading = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)

"""One process-wide loader: callers that ask for the same model share one copy of it, its lock and its cache of latents.

The loader itself holds a loaded model only weakly: each `Clara` holds it until it is closed (or
gone), and the last one to let go frees it. Loading happens one model at a time.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from clara_model.checkpoint.contents import ADAPTERS, CONFIG
from clara_model.checkpoint.options import LoadOptions
from clara_model.checkpoint.published import PUBLISHED_ADAPTERS, PUBLISHED_EMBEDDINGS
from clara_model.inference.published import ClaraModel
from clara_model.inference.underway import Underway
from clara_model.store.memory import CACHE_BYTES, LatentCache

ASYNC_THREADS = 4
"""For the calls of event loops on one model: enough to tokenise, rank and store beside the one pass at a time."""


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(ASYNC_THREADS, thread_name_prefix="clara-async")


@dataclass(eq=False)
class Loaded:
    """A model in memory with what all who use it share."""

    model: ClaraModel
    lock: threading.RLock
    """Held by each pass."""
    underway: Underway
    name: str | None = None
    """What it was loaded as; None for a model that was handed over."""
    cache: LatentCache | None = None
    """Of the latents it has made; None for a model that was handed over."""
    threads: ThreadPoolExecutor = field(default_factory=_threads)
    """Where event loops run their calls, so that their own default executor stays free. Ends with the model."""


_loaded: weakref.WeakValueDictionary[Hashable, Loaded] = weakref.WeakValueDictionary()
_shared: weakref.WeakKeyDictionary[ClaraModel, tuple[threading.RLock, Underway]] = weakref.WeakKeyDictionary()
_loading = threading.RLock()


def wrap(model: ClaraModel) -> Loaded:
    """A model that is already in memory; every wrapper of one model takes the same lock."""
    with _loading:
        return Loaded(model, *_shared.setdefault(model, (threading.RLock(), Underway())))


def load(name: str | Path, options: LoadOptions, cache_bytes: int = CACHE_BYTES) -> Loaded:
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
        loaded = wrap(ClaraModel.from_options(name, options))
        loaded.name, loaded.cache = str(name), cache
        _loaded[key] = loaded
        return loaded


def loaded_models() -> list[str]:
    """The names under which models are in memory now, one for each copy."""
    return sorted(str(loaded.name) for loaded in _loaded.values())


def _identity(name: str | Path, subfolder: str | None) -> Hashable:
    """A hub or bundled name as it is; a folder by where it is and when its files were written."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return str(name)
    inside = folder / subfolder if subfolder else folder
    files = [inside / file for file in (CONFIG, ADAPTERS, PUBLISHED_ADAPTERS, PUBLISHED_EMBEDDINGS)]
    stats = [file.stat() for file in files if file.is_file()]
    return str(folder.resolve()), tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)

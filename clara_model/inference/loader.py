"""One process-wide loader: callers that ask for the same model share one copy of it, its lock and its cache of latents.

The loader itself holds a loaded model only weakly: each `Clara` holds it until it is closed (or
gone), and the last one to let go frees it. Loading happens one model at a time.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import torch

from clara_model.checkpoint.base_model import default_device, default_dtype
from clara_model.checkpoint.files import ADAPTERS, CONFIG, PUBLISHED_ADAPTERS, PUBLISHED_EMBEDDINGS
from clara_model.checkpoint.prompts import PromptSet
from clara_model.errors import ClaraError
from clara_model.inference.published import ClaraModel
from clara_model.inference.underway import Underway
from clara_model.store.memory import CACHE_BYTES, LatentCache

DTYPES = ("float32", "bfloat16", "float16")


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


_loaded: weakref.WeakValueDictionary[Hashable, Loaded] = weakref.WeakValueDictionary()
_shared: weakref.WeakKeyDictionary[ClaraModel, tuple[threading.RLock, Underway]] = weakref.WeakKeyDictionary()
_loading = threading.RLock()


def wrap(model: ClaraModel) -> Loaded:
    """A model that is already in memory; every wrapper of one model takes the same lock."""
    with _loading:
        return Loaded(model, *_shared.setdefault(model, (threading.RLock(), Underway())))


def load(
    name: str | Path,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    base_model: str | Path | None = None,
    prompts: str | Path | PromptSet | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    quantization: str | None = None,
    token: str | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Loaded:
    """The model that these arguments name, loaded if nobody holds it; as for `ClaraModel.from_pretrained`.

    A checkpoint folder whose files have changed since is another model. ``token`` says who may fetch, not what, so it
    does not tell models apart. The shared cache is as large as the largest ``cache_bytes`` asked for.
    """
    place = _device(device)
    float_type = _dtype(dtype) or default_dtype(place)
    wording = prompts if isinstance(prompts, PromptSet) or prompts is None else PromptSet.from_file(prompts)
    attention = attn_implementation or "sdpa"
    key = (
        *(_identity(name, subfolder), subfolder, revision, base_model and _identity(base_model, None), wording),
        *(float_type, str(place), attention, quantization),
    )
    with _loading:
        found = _loaded.get(key)
        if found is not None:
            if found.cache is not None:
                found.cache.resize(max(cache_bytes, found.cache.max_bytes))
            return found
        cache = LatentCache(cache_bytes)
        model = ClaraModel.from_pretrained(
            name,
            subfolder=subfolder,
            revision=revision,
            base_model=base_model,
            prompts=wording,
            dtype=float_type,
            device=place,
            attn_implementation=attention,
            quantization=quantization,
            token=token,
        )
        loaded = wrap(model)
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


def _device(device: torch.device | str | None) -> torch.device:
    try:
        found = default_device() if device is None else torch.device(device)
    except RuntimeError as error:
        raise ClaraError(f"device {device!r} is unknown; use cpu, cuda or cuda:1") from error
    if found.type != "cuda":
        return found
    if not torch.cuda.is_available():
        raise ClaraError(f"device {str(device)!r} was asked for but torch sees no GPU; use device='cpu'")
    return found if found.index is not None else torch.device("cuda", torch.cuda.current_device())


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]

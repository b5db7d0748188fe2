"""Hashes of weights, and a place where those of a large base model are kept between two starts.

A hash is of the numbers as they lie in memory, so a model has one whether it was loaded or built. What was hashed once
is found again by the weight files' paths, sizes, times and inodes, which any change of a file moves.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from huggingface_hub import constants
from torch import Tensor

logger = logging.getLogger(__name__)

LARGE = 64 * 1024 * 1024
"""Bytes of weights from which on their hash is kept; fewer are hashed in a fraction of a second."""
_THREADS = 8


def hash_tensors(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """SHA-256 of names, float types, shapes and numbers; 1.5 GB a second on each of up to 8 threads.

    With a ``dtype``, of the numbers rounded to it, so that copies in longer types have the same hash.
    """

    def digest(name: str) -> bytes:
        return _digest(tensors[name] if dtype is None else tensors[name].detach().to(dtype))

    names = sorted(tensors)
    if nbytes(tensors) < LARGE:
        parts = [digest(name) for name in names]
    else:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            parts = list(pool.map(digest, names))
    whole = hashlib.sha256()
    for name, part in zip(names, parts, strict=True):
        whole.update(f"{name}\0{dtype or tensors[name].dtype}\0{tuple(tensors[name].shape)}\0".encode() + part)
    return whole.hexdigest()


def nbytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).digest()


def files_key(*paths: Path) -> str:
    """What tells the present contents of some files from any others, without reading them."""
    stats = [(str(path.resolve()), path.stat()) for path in paths]
    seen = [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def kept_hash(key: str, tensors: Mapping[str, Tensor]) -> str:
    """`hash_tensors` of large weights, computed once for a key and kept in ``$HF_HOME/clara/hashes``."""
    if nbytes(tensors) < LARGE:
        return hash_tensors(tensors)
    return kept(key, lambda: hash_tensors(tensors), lambda found: len(found) == 64)


def kept(key: str, make: Callable[[], str], whole: Callable[[str], bool]) -> str:
    """A text that is made once for a key and kept in ``$HF_HOME/clara/hashes``; not ``whole`` it is made again."""
    path = Path(constants.HF_HOME) / "clara" / "hashes" / key
    with contextlib.suppress(OSError, UnicodeDecodeError):  # not kept yet
        found = path.read_text(encoding="utf-8")
        if whole(found):
            return found
    made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(made, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:  # a read-only home costs time at each start, no more
        logger.info("a hash of the base model could not be kept (%s)", error)
    return made

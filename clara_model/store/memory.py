"""Latents kept between calls: the seam of a latent store, and the bounded in-memory one that is on by default.

A block is found by the fingerprint of the checkpoint that made it and the hash of its text, so what another checkpoint
made is never found. Leaves out: keeping latents on disk, which comes later behind the same `LatentStore`.
Shapes: ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

CACHE_BYTES = 256 * 1024 * 1024
"""Default size of the in-memory cache: 2,000 documents of a 7B model at rate 16 in bfloat16."""

ENTRY_BYTES = 512
"""Counted for each block beside its vector: key, objects and their bookkeeping."""


@dataclass(frozen=True, eq=False)
class Block:
    """The latents of one document: ``vector`` ``[M, D]`` in host memory, and the text tokens it stands for."""

    vector: Tensor
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes that the block occupies in a cache."""
        return self.vector.numel() * self.vector.element_size() + ENTRY_BYTES


class LatentStore(Protocol):
    """Where blocks are kept. Calls come from many threads; a store may forget a block, never change one."""

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        """The blocks of these keys that this checkpoint made, ``None`` where there is none."""

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        """Keep blocks that this checkpoint made, by key."""


def content_key(text: str) -> str:
    """The key of a text: SHA-256 of its characters, lone surrogates included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class LatentCache:
    """A `LatentStore` in memory, bounded in bytes; what was used longest ago goes first. Thread-safe."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        """Start empty; with ``max_bytes`` 0 nothing is ever kept."""
        if max_bytes < 0:
            raise ValueError(f"cache_bytes must be at least 0, got {max_bytes}")
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[tuple[str, str], Block] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        """The blocks of these keys, ``None`` where there is none; found ones count as used now."""
        with self._lock:
            found = [self._blocks.get((fingerprint, key)) for key in keys]
            for key, block in zip(keys, found, strict=True):
                if block is not None:
                    self._blocks.move_to_end((fingerprint, key))
            return found

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        """Keep blocks; a block larger than the whole cache is not kept."""
        with self._lock:
            for key, block in blocks.items():
                self._drop((fingerprint, key))
                if block.nbytes <= self._max_bytes:
                    self._blocks[fingerprint, key] = block
                    self._nbytes += block.nbytes
                    self._shrink()

    def resize(self, max_bytes: int) -> None:
        """Another bound; what no longer fits goes at once."""
        with self._lock:
            self._max_bytes = max_bytes
            self._shrink()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._blocks.clear()
            self._nbytes = 0

    @property
    def max_bytes(self) -> int:
        """The bound."""
        return self._max_bytes

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        return self._nbytes

    def __len__(self) -> int:
        """Blocks kept now."""
        return len(self._blocks)

    def _drop(self, key: tuple[str, str]) -> None:
        block = self._blocks.pop(key, None)
        if block is not None:
            self._nbytes -= block.nbytes

    def _shrink(self) -> None:
        while self._nbytes > self._max_bytes:
            self._nbytes -= self._blocks.popitem(last=False)[1].nbytes

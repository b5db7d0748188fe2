"""The bounded in-memory store of latents that is on by default, alone or in front of one that lasts."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from clara_model.defaults import CACHE_BYTES
from clara_model.store.opening import open_store
from clara_model.store.protocol import Block, DurableStore, LatentStore, check_fingerprint


class LatentCache:
    """A `LatentStore` in memory, of at most ``max_bytes``; what was used longest ago goes first. Thread-safe."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        """Start empty; with ``max_bytes`` 0 nothing is ever kept."""
        if max_bytes < 0:
            raise ValueError(f"cache_bytes must be at least 0, got {max_bytes}")
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._blocks: OrderedDict[tuple[str, str], Block] = OrderedDict()
        self._lock = threading.Lock()
        _caches.add(self)

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
                if block.nbytes <= self.max_bytes:
                    self._blocks[fingerprint, key] = block
                    self.nbytes += block.nbytes
                    self._shrink()

    def resize(self, max_bytes: int) -> None:
        """Another bound; what no longer fits goes at once."""
        with self._lock:
            self.max_bytes = max_bytes
            self._shrink()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._blocks.clear()
            self.nbytes = 0

    def __len__(self) -> int:
        """Blocks kept now."""
        return len(self._blocks)

    def _drop(self, key: tuple[str, str]) -> None:
        block = self._blocks.pop(key, None)
        if block is not None:
            self.nbytes -= block.nbytes

    def _shrink(self) -> None:
        while self.nbytes > self.max_bytes:
            self.nbytes -= self._blocks.popitem(last=False)[1].nbytes


def _after_fork() -> None:
    """In a forked child: a lock may have been held by a thread that is not here, and what it guarded be half done."""
    for cache in list(_caches):
        cache._lock = threading.Lock()
        cache.clear()


_caches: weakref.WeakSet[LatentCache] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)


class LayeredStore:
    """Looks in the cache first; what the store finds goes into the cache, what is put goes into both.

    In the cache, the blocks of a store stand apart from those that a model has made without it: on a GPU these come
    from a batch, whose rounding does not belong in a store, and they have never been put there.
    """

    def __init__(self, cache: LatentStore, durable: DurableStore) -> None:
        """Put ``cache`` in front of ``durable``."""
        self.cache = cache
        self.durable = durable
        self._before: int | None = None
        self._generation = durable.generation

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        """The blocks of these keys, ``None`` where neither has one.

        What is cached counts as stored until the store's generation moves. Then the store is looked at again, and what
        was deleted from it and is asked for is put back.
        """
        now = self.durable.generation
        if now != self._generation:
            self._before, self._generation = self._generation, now
        before = self._before
        found = dict(zip(keys, self.cache.get(self._apart(fingerprint, now), keys), strict=True))
        missing = [key for key, block in found.items() if block is None]
        if missing and before is not None:
            old = zip(missing, self.cache.get(self._apart(fingerprint, before), missing), strict=True)
            cached = {key: block for key, block in old if block is not None}
            there = self.durable.numbers(list(cached)) if cached else {}
            self.durable.put(fingerprint, {key: block for key, block in cached.items() if key not in there})
            self.cache.put(self._apart(fingerprint, now), cached)
            found |= cached
            missing = [key for key in missing if key not in cached]
        if missing:
            stored = zip(missing, self.durable.get(fingerprint, missing), strict=True)
            read = {key: block for key, block in stored if block is not None}
            self.cache.put(self._apart(fingerprint, now), read)
            found |= read
        return [found[key] for key in keys]

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        """Keep blocks in the store, then in the cache.

        Raises:
            ClaraError: the store cannot be written; the cache has not taken them either.
        """
        now = self.durable.generation
        self.durable.put(fingerprint, blocks)
        self.cache.put(self._apart(fingerprint, now), blocks)

    def _apart(self, fingerprint: str, generation: int) -> str:
        """What the cache knows this store's blocks of a checkpoint by, as of one state of the store."""
        return f"{fingerprint} in {self.durable.identity} at {generation}"


def layered(store: str | Path | LatentStore | None, cache: LatentStore, fingerprint: str) -> LatentStore:
    """What a model keeps its latents in: its cache alone or in front of a store that lasts, or another store as it is.

    Raises:
        ClaraError: the store cannot be opened, or holds another checkpoint's latents.
    """
    if store is None:
        return cache
    opened = open_store(store) if isinstance(store, (str, Path)) else store
    if not _lasts(opened):
        return opened
    check_fingerprint(opened.url, opened.fingerprint, fingerprint)
    return LayeredStore(cache, opened)


def durable(store: LatentStore) -> DurableStore | None:
    """The store that lasts, if there is one."""
    if isinstance(store, LayeredStore):
        return store.durable
    return store if _lasts(store) else None


def _lasts(store: LatentStore) -> TypeGuard[DurableStore]:
    return hasattr(store, "iterate")

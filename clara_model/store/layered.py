"""A bounded cache in memory in front of a store that lasts, as one `LatentStore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from clara_model.store.opening import open_store
from clara_model.store.protocol import Block, DurableStore, LatentStore, check_fingerprint


class LayeredStore:
    """Looks in the cache first; what the store finds goes into the cache, what is put goes into both.

    In the cache, the blocks of a store stand apart from those that a model has made without it: on a GPU these come
    from a batch, whose rounding does not belong in a store, and they have never been put there.
    """

    def __init__(self, cache: LatentStore, durable: DurableStore) -> None:
        """Put ``cache`` in front of ``durable``."""
        self.cache = cache
        self.durable = durable

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        """The blocks of these keys, ``None`` where neither has one; what was deleted from the store is put back."""
        found = dict(zip(keys, self.cache.get(self._apart(fingerprint), keys), strict=True))
        cached = {key: block for key, block in found.items() if block is not None}
        there = self.durable.numbers(list(cached)) if cached else {}
        self.durable.put(fingerprint, {key: block for key, block in cached.items() if key not in there})
        missing = [key for key in found if key not in cached]
        if missing:
            stored = zip(missing, self.durable.get(fingerprint, missing), strict=True)
            read = {key: block for key, block in stored if block is not None}
            self.cache.put(self._apart(fingerprint), read)
            found |= read
        return [found[key] for key in keys]

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        """Keep blocks in the store, then in the cache.

        Raises:
            ClaraError: the store cannot be written; the cache has not taken them either.
        """
        self.durable.put(fingerprint, blocks)
        self.cache.put(self._apart(fingerprint), blocks)

    def _apart(self, fingerprint: str) -> str:
        """What the cache knows this store's blocks of a checkpoint by."""
        return f"{fingerprint} in {self.durable.identity}"


def layered(store: str | Path | LatentStore | None, cache: LatentStore, fingerprint: str) -> LatentStore:
    """What a model keeps its latents in: ``cache`` in front of a store that lasts, or another store as it is.

    Args:
        store: the path or URL of one (`open_store`), a store, or None for the cache alone.
        cache: of the model.
        fingerprint: of the model.

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

"""A bounded cache in memory in front of a store that lasts, as one `LatentStore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clara_model.store.protocol import Block, DurableStore, LatentStore


class LayeredStore:
    """Looks in the cache first; what the store finds goes into the cache, what is put goes into both."""

    def __init__(self, cache: LatentStore, durable: DurableStore) -> None:
        """Put ``cache`` in front of ``durable``."""
        self.cache = cache
        self.durable = durable

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        """The blocks of these keys, ``None`` where neither has one."""
        found = self.cache.get(fingerprint, keys)
        missing = list(dict.fromkeys(key for key, block in zip(keys, found, strict=True) if block is None))
        if not missing:
            return found
        stored = zip(missing, self.durable.get(fingerprint, missing), strict=True)
        read = {key: block for key, block in stored if block is not None}
        self.cache.put(fingerprint, read)
        return [read.get(key) if block is None else block for key, block in zip(keys, found, strict=True)]

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        """Keep blocks in the store, then in the cache.

        Raises:
            ClaraError: the store cannot be written; the cache has not taken them either.
        """
        self.durable.put(fingerprint, blocks)
        self.cache.put(fingerprint, blocks)

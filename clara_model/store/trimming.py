"""Keeping a store within a number of bytes."""

from __future__ import annotations

from itertools import islice

from clara_model.store.protocol import DurableStore

_KEPT = 0.8
"""Of the bound, so that the next few blocks do not make it be trimmed again."""


def trim(store: DurableStore, max_bytes: int) -> int:
    """Delete the blocks that were put longest ago where a store is larger than ``max_bytes``; how many."""
    stats = store.stats()
    if stats.nbytes <= max_bytes:
        return 0
    share = 1 - _KEPT * max_bytes / stats.nbytes
    deleted = store.delete([row.key for row in islice(store.iterate(), round(share * stats.blocks))])
    store.compact()
    return deleted

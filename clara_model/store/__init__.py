"""Where latents are kept: the protocol of a store, the bounded cache in memory, and stores that outlive the process."""

from clara_model.store.opening import copy_store, open_store
from clara_model.store.protocol import Block, Damage, DurableStore, LatentStore, Row, StoredDocument, StoreStats
from clara_model.windows import Window

__all__ = [
    "Block",
    "Damage",
    "DurableStore",
    "LatentStore",
    "Row",
    "StoreStats",
    "StoredDocument",
    "Window",
    "copy_store",
    "open_store",
]

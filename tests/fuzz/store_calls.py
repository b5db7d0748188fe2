"""Calls on a store as tuples, and the other process that does some of them."""

from multiprocessing.connection import Connection
from typing import Any

import torch

from clara_model.store import Block, DurableStore, StoredDocument, Window, open_store
from clara_model.store.opening import evict
from clara_model.store.protocol import MissingBlocks, content_key

FINGERPRINT = "f"
Op = tuple[Any, ...]


def block(name: str, version: int) -> Block:
    draw = torch.Generator().manual_seed(int(name) * 10 + version)
    return Block(torch.randn(2, 48, generator=draw), int(name), f"{name} {version}")


def done(store: DurableStore, op: Op) -> object:
    """Do it; what a caller is told."""
    match op:
        case ("put", names, version):
            return store.put(FINGERPRINT, {content_key(one): block(one, version) for one in names})
        case ("record", documents):
            made = [
                StoredDocument(one, tuple(Window(content_key(name), 0, 1) for name in names), "d", {"year": year})
                for one, names, year in documents
            ]
            try:
                return store.record(made)
            except MissingBlocks as error:
                return sorted(error.keys)
        case ("delete", names):
            return store.delete([content_key(one) for one in names])
        case ("forget", ids):
            return store.forget(ids)
        case ("evict", share):
            return evict(store, int(store.stats().nbytes * share))
        case ("mend",):
            return sorted(one.where for one in store.verify(mend=True))
        case ("clear",):
            return store.clear()
        case ("compact",):
            return store.compact()
    raise AssertionError(op)


def serve(place: str, asked: Connection) -> None:
    """What the other process does."""
    torch.set_num_threads(1)
    store = open_store(place)
    asked.send("ready")
    while True:
        try:
            op = asked.recv()
        except EOFError:
            return
        if op == ("reopen",):
            store.close()
            store = open_store(place)
            asked.send(None)
        else:
            asked.send(done(store, op))

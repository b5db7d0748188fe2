"""`open_store`: a path or URL to the store that lies there; and copying one store into another."""

from __future__ import annotations

import logging
import math
import re
from itertools import islice
from pathlib import Path

from clara_model.errors import ClaraError
from clara_model.store import lance
from clara_model.store.lance import LanceStore
from clara_model.store.protocol import DurableStore, batches
from clara_model.store.sqlite.store import FILE, SQLiteStore

logger = logging.getLogger(__name__)

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_OBJECTS = ("s3", "gs", "az", "abfss")
"""Schemes of object storage; what lies there is a Lance store."""


def open_store(url: str | Path, *, encoding: str | None = None, keep_text: bool | None = None) -> DurableStore:
    """Open the store at a path or URL, or start one there.

    Args:
        url: a folder, or a ``file://`` URL of one; with a name that ends in ``.lance``, or on object storage
            (``s3://``, ``gs://``, ``az://``, ``abfss://``), it is a store that many machines may use (extra ``lance``).
        encoding: ``exact`` (as the model made them), ``float32``, ``bfloat16``, ``float16``, ``int8`` or ``int4``; a
            store that exists keeps its own.
        keep_text: whether the windows' texts are kept beside their latents (default: yes).

    Raises:
        ClaraError: what lies there cannot be used, in one sentence.
    """
    name = str(url)
    if not name.strip():
        raise ValueError("the store's path is empty; name a folder")
    scheme = _SCHEME.match(name)
    if scheme and scheme[1].lower() == "file":
        name, scheme = name[len("file://") :], None
    if scheme and scheme[1].lower() not in _OBJECTS:
        raise ClaraError(f"{name} has the unknown scheme {scheme[1]}://; a store is a folder or at {_known()}")
    if scheme or _is_lance(name):
        return LanceStore(name if scheme else Path(name).expanduser(), encoding=encoding, keep_text=keep_text)
    return SQLiteStore(name, encoding=encoding, keep_text=keep_text)


def _known() -> str:
    return ", ".join(f"{scheme}://" for scheme in _OBJECTS)


def _is_lance(name: str) -> bool:
    return name.rstrip("/").endswith(".lance")


def is_shared(url: str | Path) -> bool:
    """Whether a store of this name is one that several machines may use at once."""
    scheme = _SCHEME.match(str(url))
    return bool(scheme and scheme[1].lower() != "file") or _is_lance(str(url))


def existing_store(url: str | Path) -> str:
    """The path or URL of a store that is there; `open_store` would start one.

    Raises:
        FileNotFoundError: there is nothing.
        ClaraError: something else is there.
    """
    name = str(url)
    if _SCHEME.match(name) and not name.startswith("file://"):
        if not lance.exists(name):
            raise FileNotFoundError(
                f"{name} holds no store; make it with: clara compress FILE_OR_FOLDER --store {name}"
            )
        return name
    folder = Path(name.removeprefix("file://")).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"{name} does not exist; make it with: clara compress FILE_OR_FOLDER --store {name}")
    if folder.is_dir() and not (folder / FILE).is_file() and not (folder / "documents.lance").is_dir():
        raise ClaraError(f"{name} is a folder without a store; make one with: clara compress FILE_OR_FOLDER --store ..")
    return name


def copy_store(source: DurableStore, target: DurableStore) -> int:
    """Copy everything that can be read into another store, whose element type may differ; how many blocks.

    Raises:
        ClaraError: the target is the source, holds another checkpoint's latents, or cannot be written.
    """
    if source.identity == target.identity:
        raise ClaraError(f"{source.url} cannot be copied into itself; name another place")
    fingerprint = source.fingerprint
    if fingerprint is None:
        return 0
    copied = 0
    for rows in batches(source.iterate()):
        target.put(fingerprint, {row.key: row.block for row in rows})
        copied += len(rows)
    for documents in batches(source.documents()):
        there = target.numbers([window.key for one in documents for window in one.windows])
        whole = [one for one in documents if all(window.key in there for window in one.windows)]
        if len(whole) < len(documents):
            left = next(one.id for one in documents if one not in whole)
            logger.warning(
                "%s: %d documents whose latents are damaged or missing are not copied (the first is %s); compress them "
                "again into %s",
                *(source.url, len(documents) - len(whole), left, target.url),
            )
        target.record(whole)
    return copied


_KEPT = 0.8
"""Of the bound, so that the next few blocks do not make it be evicted from again."""


def evict(store: DurableStore, max_bytes: int) -> int:
    """Delete the blocks that were put longest ago until a store is no larger than ``max_bytes``; how many."""
    deleted = 0
    while (stats := store.stats()).nbytes > max_bytes:
        share = 1 - _KEPT * max_bytes / stats.nbytes
        gone = store.delete([row.key for row in islice(store.iterate(), math.ceil(share * stats.blocks))])
        store.compact()
        deleted += gone
        if not gone:
            break
    return deleted

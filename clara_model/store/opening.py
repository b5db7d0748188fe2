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
    scheme, place = _parted(url)
    if scheme and scheme not in _OBJECTS:
        known = ", ".join(f"{one}://" for one in _OBJECTS)
        raise ClaraError(f"{name} has the unknown scheme {scheme}://; a store is a folder or at {known}")
    if is_shared(url):
        return LanceStore(place if scheme else Path(place).expanduser(), encoding=encoding, keep_text=keep_text)
    return SQLiteStore(place, encoding=encoding, keep_text=keep_text)


def _parted(url: str | Path) -> tuple[str, str]:
    """The scheme of a URL, empty for a folder, and the URL or the folder's path."""
    name = str(url)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", name)
    if scheme is None or scheme[1].lower() == "file":
        return "", name[scheme.end() :] if scheme else name
    return scheme[1].lower(), name


def is_shared(url: str | Path) -> bool:
    """Whether a store of this name is one that several machines may use at once."""
    scheme, place = _parted(url)
    return bool(scheme) or place.rstrip("/").endswith(".lance")


def existing_store(url: str | Path) -> str:
    """The path or URL of a store that is there; `open_store` would start one.

    Raises:
        FileNotFoundError: there is nothing.
        ClaraError: something else is there.
    """
    scheme, place = _parted(url)
    folder = Path(place).expanduser()
    if not (lance.exists(place) if scheme else folder.exists()):
        what = "holds no store" if scheme else "does not exist"
        raise FileNotFoundError(f"{url} {what}; make it with: clara compress FILE_OR_FOLDER --store {url}")
    if folder.is_dir() and not (folder / FILE).is_file() and not (folder / "documents.lance").is_dir():
        raise ClaraError(f"{url} is a folder without a store; make one with: clara compress FILE_OR_FOLDER --store ..")
    return str(url)


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

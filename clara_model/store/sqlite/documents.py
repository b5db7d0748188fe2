"""The documents of the SQLite store: which windows each has, its digest and metadata, and filters on them."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clara_model.errors import ClaraError
from clara_model.store.encodings import checksum
from clara_model.store.filters import condition
from clara_model.store.protocol import Damage, Placed, StoredDocument, Where, Window
from clara_model.store.sqlite.connection import Connections

logger = logging.getLogger(__name__)

_PLACES = """SELECT w.key, w.document, w.number, w.start, w."end", d.metadata
    FROM windows w JOIN documents d ON d.id = w.document"""


class SQLiteDocuments:
    """The half of `clara_model.store.sqlite.blocks.SQLiteStore` that deals with documents."""

    def __init__(self, connections: Connections) -> None:
        """Work on the file of ``connections``."""
        self._connections = connections

    def record(self, documents: Sequence[StoredDocument]) -> None:
        """Keep documents in one transaction, in place of what is there under their ids.

        Raises:
            TypeError: metadata that JSON cannot hold.
        """
        ready = [(document, dump_metadata(document.metadata)) for document in documents]
        with self._connections.writing() as connection:
            before = {key for document in documents for key in _remove(connection, document.id)}
            for document, metadata in ready:
                kept = _checksum(document.id, document.digest, metadata, document.windows)
                values = (document.id, document.digest, metadata, kept)
                connection.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", values)
                connection.executemany(
                    "INSERT INTO windows VALUES (?, ?, ?, ?, ?)",
                    [
                        (document.id, number, window.start, window.end, bytes.fromhex(window.key))
                        for number, window in enumerate(document.windows)
                    ],
                )
            _drop_unused(connection, before)

    def forget(self, ids: Sequence[str]) -> int:
        """Delete documents, and the blocks that no other document has; how many documents there were."""
        with self._connections.writing() as connection:
            count = "SELECT count(*) FROM documents WHERE id = ?"
            there = [one for one in dict.fromkeys(ids) if connection.execute(count, (one,)).fetchone()[0]]
            _drop_unused(connection, {key for one in there for key in _remove(connection, one)})
            return len(there)

    def digests(self) -> dict[str, str]:
        """The digest of every document by id."""
        with self._connections.reading() as connection:
            return dict(connection.execute("SELECT id, digest FROM documents").fetchall())

    def documents(self) -> Iterator[StoredDocument]:
        """All documents, in the order of their ids; damaged ones are named in a warning and left out."""
        last = ""
        while True:
            with self._connections.reading() as connection:
                found = connection.execute(
                    "SELECT id FROM documents WHERE id > ? ORDER BY id LIMIT 256", (last,)
                ).fetchall()
                read = [(one, *_read(connection, one)) for (one,) in found]
            if not found:
                return
            for one, document, problem in read:
                if document is not None:
                    yield document
                else:
                    logger.warning("%s: document %s is left out: %s", self._connections.file.parent, one, problem)
            last = found[-1][0]

    def find(self, document: str | None = None, where: Where | None = None) -> list[Placed]:
        """The windows of one document, or of those whose metadata fit, in order.

        Args:
            document: its id.
            where: see `clara_model.store.filters`.
        """
        test, values = condition(where or {})
        if document is not None:
            test, values = f"{test} AND d.id = ?", [*values, document]
        query = f"{_PLACES} WHERE {test} ORDER BY w.document, w.number"
        with self._connections.reading() as connection:
            return [_placed(row) for row in connection.execute(query, values).fetchall()]

    def places(self, keys: Sequence[str]) -> list[Placed]:
        """Every place where these blocks stand, in the order of the keys."""
        found: list[Placed] = []
        query = f"{_PLACES} WHERE w.key = ? ORDER BY w.document, w.number"
        with self._connections.reading() as connection:
            for key in keys:
                found += [_placed(row) for row in connection.execute(query, (bytes.fromhex(key),)).fetchall()]
        return found

    def damaged_documents(self) -> list[Damage]:
        """Documents that are not as they were written, or whose blocks are gone."""
        damages = []
        with self._connections.reading() as connection:
            for (one,) in connection.execute("SELECT id FROM documents").fetchall():
                document, problem = _read(connection, one)
                if document is None:
                    damages.append(Damage(str(one), problem))
            missing = """SELECT w.document, w.number FROM windows w
                WHERE NOT EXISTS (SELECT 1 FROM blocks b WHERE b.key = w.key)"""
            for one, number in connection.execute(missing).fetchall():
                damages.append(Damage(str(one), f"the latents of its window {number} are not there"))
        return damages


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON.

    Raises:
        TypeError: a name that is not a string, or a value that JSON cannot hold.
    """
    if not all(isinstance(name, str) for name in metadata):
        raise TypeError(f"metadata names must be strings, got {list(metadata)!r}")
    try:
        return json.dumps(dict(metadata), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"metadata must be values that JSON can hold: {error}") from None


def _placed(row: tuple[Any, ...]) -> Placed:
    key, document, number, start, end, metadata = row
    try:
        return Placed(key.hex(), document, number, start, end, json.loads(metadata))
    except (ValueError, AttributeError) as error:
        raise ClaraError(f"document {document!r} is damaged ({error}); compress it again") from error


def _read(connection: sqlite3.Connection, one: str) -> tuple[StoredDocument | None, str]:
    """A document, or None and what is wrong with it."""
    row = connection.execute("SELECT digest, metadata, checksum FROM documents WHERE id = ?", (one,)).fetchone()
    if row is None:
        return None, "it cannot be found by its id"
    query = 'SELECT key, start, "end" FROM windows WHERE document = ? ORDER BY number'
    try:
        windows = tuple(
            Window(key.hex(), start, end) for key, start, end in connection.execute(query, (one,)).fetchall()
        )
        if row[2] != _checksum(one, row[0], row[1], windows):
            return None, "it has changed since it was written"
        return StoredDocument(one, windows, row[0], json.loads(row[1])), ""
    except (ValueError, TypeError, AttributeError) as error:
        return None, str(error)


def _checksum(one: str, digest: str, metadata: str, windows: Sequence[Window]) -> bytes:
    return checksum(b"", one, digest, metadata, *windows)


def _remove(connection: sqlite3.Connection, one: str) -> set[bytes]:
    """Take a document out; the keys that it had."""
    keys = {key for (key,) in connection.execute("SELECT key FROM windows WHERE document = ?", (one,)).fetchall()}
    connection.execute("DELETE FROM windows WHERE document = ?", (one,))
    connection.execute("DELETE FROM documents WHERE id = ?", (one,))
    return keys


def _drop_unused(connection: sqlite3.Connection, keys: set[bytes]) -> None:
    """Delete those blocks that no document has any more."""
    query = "DELETE FROM blocks WHERE key = ? AND NOT EXISTS (SELECT 1 FROM windows WHERE key = ?)"
    connection.executemany(query, [(key, key) for key in keys])

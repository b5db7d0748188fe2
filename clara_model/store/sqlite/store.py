"""The embedded store: an SQLite file and files of blocks in a folder, for one machine and any number of processes.

Blocks are appended first and then entered in one SQLite transaction for each call, so a kill leaves whole calls only.
Their bytes lie beside SQLite, because in it each is written twice (its log, then the file) and copied twice when read.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from clara_model.errors import ClaraError
from clara_model.store.base import COLUMNS, BaseStore, document_values
from clara_model.store.encodings import check_encoding, encode
from clara_model.store.filters import condition
from clara_model.store.protocol import (
    AT_ONCE,
    Block,
    Damage,
    MissingBlocks,
    Row,
    StoredDocument,
    StoreStats,
    Where,
    batches,
    check_fingerprint,
)
from clara_model.store.sqlite.connection import Connections, prepared
from clara_model.store.sqlite.schema import FORMAT, claim, create, move_generation, place, read_about, set_place, state
from clara_model.store.sqlite.segments import SEGMENT_BYTES, Segments

logger = logging.getLogger(__name__)

FILE = "latents.sqlite"
_STORED = (*COLUMNS, "segment", "offset", "size")
_PUT = f"INSERT INTO blocks ({', '.join(_STORED)}) VALUES (?{', ?' * (len(_STORED) - 1)})"
_WINDOWS = """SELECT d.id, d.digest, d.metadata, d.checksum, w.key, w.start, w."end"
    FROM documents d LEFT JOIN windows w ON w.document = d.id"""
_ID = "CAST(? AS TEXT)"
"""An id as bytes: one that is damaged may be no UTF-8 any more."""
_MISSING = "SELECT document, number FROM windows w WHERE NOT EXISTS (SELECT 1 FROM blocks b WHERE b.key = w.key)"


class SQLiteStore(BaseStore):
    """A `DurableStore` in ``folder/latents.sqlite``. Thread-safe; many processes may have it open."""

    def __init__(self, folder: str | Path, *, encoding: str | None = None, keep_text: bool | None = None) -> None:
        """Open the store in a folder, or start one there.

        Args:
            folder: made if it is not there.
            encoding: element type of what is kept, `clara_model.store.encodings.ENCODINGS`; of a store that exists its
                own, ``exact`` for a new one.
            keep_text: whether the windows' texts are kept; of a store that exists as it does, yes for a new one.

        Raises:
            ClaraError: the folder cannot be used, or what lies there is something else, newer, damaged, or kept in
                another element type than asked for.
        """
        self.folder = Path(folder).expanduser()
        self.url = str(self.folder)
        if encoding is not None:
            check_encoding(encoding)
        self._connections = Connections(self.folder / FILE, read_only=prepared(self.folder / FILE))
        self._segments = Segments(self.folder)
        try:
            if not self._connections.read_only:
                create(self._connections, encoding, keep_text)
            with self._connections.reading() as connection:
                about = read_about(connection, self.folder)
            self.identity, self.encoding, self.keeps_text, self._fingerprint = about
            self._check_options(encoding, keep_text)
        except BaseException:
            with suppress(ClaraError):
                self._connections.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same folder."""
        return type(self), (str(self.folder),)

    @property
    def fingerprint(self) -> str | None:
        if self._fingerprint is None:
            self._look()
        return self._fingerprint

    @property
    def generation(self) -> int:
        return self._look()

    def _look(self) -> int:
        """See whether it has been cleared, or filled, by another process; its generation."""
        with self._connections.reading() as connection:
            self._fingerprint, generation = state(connection)
        return generation

    # -- blocks ------------------------------------------------------------------------------------------------

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        if not blocks:
            return
        encoded = [encode(block.vector, self.encoding) for block in blocks.values()]
        with self._connections.writing() as connection:
            self._fingerprint = claim(connection, fingerprint)
            check_fingerprint(self.url, self._fingerprint, fingerprint)
            segment, start = self._room(connection)
            rows = []
            end = start
            for (key, block), one in zip(blocks.items(), encoded, strict=True):
                rows.append((*self._values(fingerprint, bytes.fromhex(key), block, one), segment, end, len(one.data)))
                end += len(one.data)
            self._segments.write(segment, start, [one.data for one in encoded])
            _delete(connection, "key", [row[0] for row in rows])
            connection.executemany(_PUT, rows)
            set_place(connection, segment, end)

    def _room(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """The segment that is written to, another one if the last is full, and where it ends. Inside a transaction."""
        segment, end = place(connection, self.folder)
        return (segment, end) if end < SEGMENT_BYTES else (segment + 1, 0)

    def delete(self, keys: Sequence[str]) -> int:
        with self._connections.writing() as connection:
            return _delete(connection, "key", [bytes.fromhex(key) for key in keys])

    def iterate(self, after: int = 0) -> Iterator[Row]:
        while True:
            rows, last = self._found("number > ? ORDER BY number LIMIT ?", [after, AT_ONCE])
            if not last:
                return
            yield from rows
            after = last

    def numbers(self, keys: Sequence[str]) -> dict[str, int]:
        with self._connections.reading() as connection:
            return {key.hex(): number for key, number in _there(connection, [bytes.fromhex(key) for key in keys])}

    def all_numbers(self) -> list[int]:
        with self._connections.reading() as connection:
            return sorted(number for (number,) in connection.execute("SELECT number FROM blocks"))

    @property
    def last_number(self) -> int:
        query = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'blocks'"
        with self._connections.reading() as connection:
            return connection.execute(query).fetchone()[0] or 0

    def _blocks(self, column: str, values: Sequence[Any]) -> Iterator[Row]:
        for part in batches([bytes.fromhex(key) for key in values] if column == "key" else values):
            yield from self._found(f"{column} IN ({_marks(part)})", part)[0]

    def _found(self, test: str, values: Sequence[Any]) -> tuple[list[Row], int]:
        """The intact rows, the others being named in one warning; and the number of the last row."""
        raw = self._raw(test, values)
        rows, damaged = self._sorted(raw)
        if damaged:  # or compacted, or cleared and filled by another checkpoint, between the look and the read
            self._look()
            raw = self._raw(test, values)
            rows, damaged = self._sorted(raw)
        self._warn(damaged)
        return rows, raw[-1][0] if raw else 0

    def _raw(self, test: str, values: Sequence[Any], within: sqlite3.Connection | None = None) -> list[tuple[Any, ...]]:
        with nullcontext(within) if within else self._connections.reading() as connection:
            query = f"SELECT number, {', '.join(_STORED)} FROM blocks WHERE {test}"
            return connection.execute(query, values).fetchall()

    def _data(self, *place: Any) -> memoryview:
        return self._segments.read(*place)

    # -- documents ---------------------------------------------------------------------------------------------

    def record(self, documents: Sequence[StoredDocument]) -> None:
        """Keep documents in one transaction, in place of what is there under their ids.

        Raises:
            MissingBlocks: a window's block is not in the store; nothing is kept.
            TypeError: metadata that JSON cannot hold.
        """
        ready = [(document, document_values(document)) for document in documents]
        with self._connections.writing() as connection:
            wanted = {bytes.fromhex(window.key): document.id for document in documents for window in document.windows}
            there = {key for key, _ in _there(connection, list(wanted))}
            if len(there) < len(wanted):
                raise MissingBlocks({key.hex(): one for key, one in wanted.items() if key not in there})
            before = {key for document in documents for key in _remove(connection, document.id)}
            for document, values in ready:
                connection.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", values)
                windows = enumerate(document.windows)
                rows = [(document.id, number, one.start, one.end, bytes.fromhex(one.key)) for number, one in windows]
                connection.executemany("INSERT INTO windows VALUES (?, ?, ?, ?, ?)", rows)
            _drop_unused(connection, before)

    def forget(self, ids: Sequence[str]) -> int:
        with self._connections.writing() as connection:
            count = f"SELECT count(*) FROM documents WHERE id = {_ID}"
            there = [one for one in dict.fromkeys(ids) if connection.execute(count, (os.fsencode(one),)).fetchone()[0]]
            _drop_unused(connection, {key for one in there for key in _remove(connection, one)})
            return len(there)

    def digests(self) -> dict[str, str]:
        with self._connections.reading() as connection:
            return dict(connection.execute("SELECT id, digest FROM documents").fetchall())

    def documents(self) -> Iterator[StoredDocument]:
        last: bytes | None = None
        while True:
            with self._connections.reading() as connection:
                query = f"SELECT id FROM documents WHERE ? IS NULL OR id > {_ID} ORDER BY id LIMIT ?"
                ids = connection.execute(query, (last, last, AT_ONCE)).fetchall()
            if not ids:
                return
            first, last = last, os.fsencode(ids[-1][0])
            yield from self._documents(f"(? IS NULL OR d.id > {_ID}) AND d.id <= {_ID}", [first, first, last])

    def _documents(self, test: str, values: Sequence[Any], damaged: list[Damage] | None = None) -> list[StoredDocument]:
        with self._connections.reading() as connection:
            rows = connection.execute(f"{_WINDOWS} WHERE {test} ORDER BY d.id, w.number", values).fetchall()
        grouped = []
        for about, group in groupby(rows, key=lambda row: row[:4]):
            windows = [row[4:] for row in group if row[4] is not None]
            grouped.append((*about, *([window[at] for window in windows] for at in range(3))))
        return self._documents_of(grouped, damaged)

    def _fitting(self, where: Where | None, document: str | None, keys: list[str] | None) -> list[StoredDocument]:
        test, values = condition(where or {})
        if document is not None:
            test, values = f"{test} AND d.id = ?", [*values, document]
        if keys is None:
            return self._documents(test, values)
        found: dict[str, StoredDocument] = {}
        for part in batches(list(map(bytes.fromhex, keys))):
            holding = f"d.id IN (SELECT document FROM windows WHERE key IN ({_marks(part)}))"
            found |= {one.id: one for one in self._documents(f"{holding} AND {test}", [*part, *values])}
        return [found[one] for one in sorted(found)]

    def matching(self, where: Where) -> list[int]:
        test, values = condition(where)
        # CROSS JOIN: in this order, so that the test comes first
        query = f"""SELECT DISTINCT b.number FROM documents d CROSS JOIN windows w ON w.document = d.id
            CROSS JOIN blocks b ON b.key = w.key WHERE {test}"""
        with self._connections.reading() as connection:
            return sorted(number for (number,) in connection.execute(query, values))

    # -- the whole ---------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        with self._connections.reading() as connection:
            blocks = connection.execute("SELECT count(*) FROM blocks").fetchone()[0]
            documents = connection.execute("SELECT count(*) FROM documents").fetchone()[0]
        files = (self.folder / f"{FILE}{suffix}" for suffix in ("", "-wal"))
        nbytes = self._segments.nbytes + sum(file.stat().st_size for file in files if file.exists())
        return StoreStats(self.url, self.fingerprint, self.encoding, self.keeps_text, blocks, documents, nbytes, FORMAT)

    def compact(self) -> None:
        """Give the room of deleted and damaged blocks back, segment by segment.

        Files that hold nothing any more go first, without taking room; then those with least left. What is left of a
        file is copied before the file goes: as much room must be free, at most the 256 MB of a file.

        Raises:
            ClaraError: there is less; it says how much is needed. The files before were given back.
        """
        query = "SELECT segment, sum(size) FROM blocks GROUP BY segment"
        with self._connections.writing() as connection:
            last, end = place(connection, self.folder)
            kept = dict(connection.execute(query).fetchall())
            sizes = {**self._segments.sizes(), last: end}
            wasteful = sorted((kept.get(one, 0), one) for one in sizes if kept.get(one, 0) < sizes[one])
            if kept.get(last, 0) < sizes[last]:
                set_place(connection, last + 1, 0)
        for size, segment in wasteful:
            if segment <= last:
                if size:
                    try:
                        with self._connections.writing() as connection:
                            self._move(connection, segment)
                    except ClaraError as error:
                        with self._connections.writing() as connection:
                            self._segments.cut(*place(connection, self.folder))
                        if not isinstance(error.__cause__, OSError):
                            raise
                        raise ClaraError(
                            f"{self.folder} cannot be compacted further ({error.__cause__.strerror}): what is left of "
                            f"data-{segment}.bin takes {size:,} bytes until the {sizes[segment]:,} of that "
                            "file are given back; free as many on the disk, or delete more of the store"
                        ) from error
                self._segments.remove([segment])  # its number is never given again
        try:
            with self._connections.reading() as connection:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except ClaraError as error:  # on a full disk SQLite keeps its free pages for what comes
            logger.warning("%s", error)

    def _move(self, connection: sqlite3.Connection, segment: int) -> None:
        """Copy what is intact of a segment behind all others, and delete its other rows. Inside a transaction."""
        after = 0
        test = "segment = ? AND number > ? ORDER BY number LIMIT ?"
        while raw := self._raw(test, [segment, after, AT_ONCE], connection):
            after = raw[-1][0]
            intact = {row.number for row in self._sorted(raw)[0]}
            _delete(connection, "number", [values[0] for values in raw if values[0] not in intact])
            target, end = self._room(connection)
            pieces, moves, start = [], [], end
            for values in raw:
                if values[0] in intact:
                    pieces.append(self._segments.read(*values[-3:]))
                    moves.append((target, end, values[0]))
                    end += len(pieces[-1])
            self._segments.write(target, start, pieces)
            connection.executemany("UPDATE blocks SET segment = ?, offset = ? WHERE number = ?", moves)
            set_place(connection, target, end)

    def clear(self) -> None:
        with self._connections.writing() as connection:
            last, _ = place(connection, self.folder)
            for table in ("windows", "documents", "blocks"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("DELETE FROM about WHERE name = 'fingerprint'")
            move_generation(connection)
            set_place(connection, last + 1, 0)
        self._look()
        self._segments.remove([one for one in self._segments.sizes() if one <= last])
        self.compact()

    def verify(self, documents: Sequence[str] | None = None, *, mend: bool = False) -> list[Damage]:
        damages: list[Damage] = []
        try:
            self._look()  # another process may have filled it since
            if documents is None:
                with self._connections.reading() as connection:
                    lines = connection.execute("PRAGMA integrity_check").fetchall()
                damages += [Damage(FILE, line) for (line,) in lines if line != "ok"]
                damages += self._damaged("1", "1", [], mend)
            else:
                for part in batches(documents):
                    keys = f"key IN (SELECT key FROM windows WHERE document IN ({_marks(part)}))"
                    damages += self._damaged(keys, f"d.id IN ({_marks(part)})", part, mend)
        except ClaraError as error:
            damages.append(Damage(FILE, str(error)))
        return damages

    def _damaged(self, of_blocks: str, of_documents: str, values: Sequence[Any], mend: bool) -> list[Damage]:
        """What is damaged or missing among these rows."""
        damages: list[Damage] = []
        after = 0
        test = f"{of_blocks} AND number > ? ORDER BY number LIMIT {AT_ONCE}"
        while raw := self._raw(test, [*values, after]):
            after = raw[-1][0]
            if not self._sorted(raw)[1]:
                continue
            with self._connections.writing() if mend else self._connections.reading() as connection:
                # once more, now that no compaction comes between
                raw = self._raw(f"number IN ({_marks(raw)})", [row[0] for row in raw], connection)
                rows, damaged = self._sorted(raw)
                if mend:
                    _delete(connection, "number", list({row[0] for row in raw} - {row.number for row in rows}))
                damages += damaged
        lost: list[Damage] = []
        self._documents(of_documents, values, lost)
        if mend and lost:
            self.forget([one.where for one in lost])
        missing = f"{_MISSING} AND w.document IN (SELECT id FROM documents d WHERE {of_documents})"
        with self._connections.reading() as connection:
            for one, number in connection.execute(missing, values).fetchall():
                lost.append(Damage(str(one), f"the latents of its window {number} are not there"))
        return damages + lost

    def close(self) -> None:
        self._segments.sync()
        self._connections.close()


def _marks(part: Sequence[Any]) -> str:
    return ",".join("?" * len(part))


def _there(connection: sqlite3.Connection, keys: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Key and number of each block that is there."""
    for part in batches(keys):
        yield from connection.execute(f"SELECT key, number FROM blocks WHERE key IN ({_marks(part)})", part).fetchall()


def _delete(connection: sqlite3.Connection, column: str, values: Sequence[Any]) -> int:
    """Delete blocks; how many there were. Inside a transaction."""
    gone = 0
    for part in batches(values):
        gone += connection.execute(f"DELETE FROM blocks WHERE {column} IN ({_marks(part)})", part).rowcount
    if gone:
        move_generation(connection)
    return gone


def _remove(connection: sqlite3.Connection, one: str) -> set[bytes]:
    """Take a document out; the keys that it had."""
    name = (os.fsencode(one),)
    keys = {key for (key,) in connection.execute(f"SELECT key FROM windows WHERE document = {_ID}", name).fetchall()}
    connection.execute(f"DELETE FROM windows WHERE document = {_ID}", name)
    connection.execute(f"DELETE FROM documents WHERE id = {_ID}", name)
    return keys


def _drop_unused(connection: sqlite3.Connection, keys: set[bytes]) -> None:
    """Delete those blocks that no document has any more. Inside a transaction."""
    unused = "SELECT count(*) FROM windows WHERE key = ?"
    _delete(connection, "key", [key for key in keys if not connection.execute(unused, (key,)).fetchone()[0]])

"""The embedded store: an SQLite file and files of blocks in a folder, for one machine and any number of processes.

Blocks are appended first and then entered in one SQLite transaction for each call, so a kill leaves whole calls only.
Their bytes lie beside SQLite, because in it each is written twice (its log, then the file) and copied twice when read.
Leaves out storage that machines share (`store.lance`) and search.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from clara_model.errors import ClaraError
from clara_model.store.encodings import (
    EncodedBlock,
    check_encoding,
    checksum,
    decode,
    document_checksum,
    dump_metadata,
    encode,
)
from clara_model.store.filters import condition
from clara_model.store.protocol import (
    AT_ONCE,
    Block,
    Damage,
    DurableStore,
    MissingBlocks,
    Row,
    StoredDocument,
    StoreStats,
    Where,
    batches,
    check_fingerprint,
    check_options,
    placed,
)
from clara_model.store.sqlite.connection import Connections, prepared
from clara_model.store.sqlite.schema import (
    FORMAT,
    About,
    claim,
    create,
    forget_fingerprint,
    generation,
    move_generation,
    place,
    read_about,
    set_place,
)
from clara_model.store.sqlite.segments import SEGMENT_BYTES, Replaced, Segments
from clara_model.windows import Window

logger = logging.getLogger(__name__)

FILE = "latents.sqlite"
_DAMAGED = (ValueError, TypeError, AttributeError, Replaced)
_STORED = "length slots width encoding dtype checksum text segment offset size".split()
_COLUMNS = f"number, key, {', '.join(_STORED)}"
_PUT = f"INSERT INTO blocks (key, {', '.join(_STORED)}) VALUES (?{', ?' * len(_STORED)})"
_WINDOWS = """SELECT d.id, d.digest, d.metadata, d.checksum, w.key, w.start, w."end"
    FROM documents d LEFT JOIN windows w ON w.document = d.id"""
_ID = "CAST(? AS TEXT)"
"""An id as bytes: one that is damaged may be no UTF-8 any more."""
_MISSING = "SELECT document, number FROM windows w WHERE NOT EXISTS (SELECT 1 FROM blocks b WHERE b.key = w.key)"


class SQLiteStore(DurableStore):
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
        if encoding is not None:
            check_encoding(encoding)
        self._connections = Connections(self.folder / FILE, read_only=prepared(self.folder / FILE))
        self._segments = Segments(self.folder)
        try:
            if not self._connections.read_only:
                create(self._connections, encoding, keep_text)
            self._about: About = self._read_about()
            own = {"encoding": self._about.encoding, "keep_text": self._about.keeps_text}
            check_options(self.url, {"encoding": encoding, "keep_text": keep_text}, own)
        except BaseException:
            with suppress(ClaraError):
                self._connections.close()
            raise

    def _read_about(self) -> About:
        with self._connections.reading() as connection:
            return read_about(connection, self.folder)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same folder."""
        return type(self), (str(self.folder),)

    @property
    def url(self) -> str:
        return str(self.folder)

    @property
    def identity(self) -> str:
        return self._about.identity

    @property
    def fingerprint(self) -> str | None:
        if self._about.fingerprint is None:
            self._about = self._read_about()
        return self._about.fingerprint

    @property
    def generation(self) -> int:
        with self._connections.reading() as connection:
            fingerprint, moved = generation(connection)
        if fingerprint != self._about.fingerprint:  # it has been cleared, or filled
            self._about = replace(self._about, fingerprint=fingerprint)
        return moved

    # -- blocks ------------------------------------------------------------------------------------------------

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        if self.fingerprint is None:
            return [None] * len(keys)
        found = {row.key: row.block for row in self._select("key", [bytes.fromhex(key) for key in dict.fromkeys(keys)])}
        check_fingerprint(self.url, self.fingerprint, fingerprint)
        return [found.get(key) for key in keys]

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        if not blocks:
            return
        encoded = [encode(block.vector, self._about.encoding) for block in blocks.values()]
        with self._connections.writing() as connection:
            self._about = replace(self._about, fingerprint=claim(connection, fingerprint))
            check_fingerprint(self.url, self.fingerprint, fingerprint)
            segment, start = self._room(connection)
            rows = []
            end = start
            for (key, block), one in zip(blocks.items(), encoded, strict=True):
                rows.append((*self._values(key, block, one), segment, end, len(one.data)))
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

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        found = {row.number: row for row in self._select("number", list(dict.fromkeys(numbers)))}
        return [found[number] for number in numbers if number in found]

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

    def _select(self, column: str, values: Sequence[bytes | int]) -> Iterator[Row]:
        for part in batches(values):
            yield from self._found(f"{column} IN ({_marks(part)})", part)[0]

    def _found(self, test: str, values: Sequence[Any]) -> tuple[list[Row], int]:
        """The intact rows, the others being named in one warning; and the number of the last row."""
        raw = self._raw(test, values)
        rows, damaged = self._sorted(raw)
        if damaged:  # or compacted, or cleared and filled by another checkpoint, between the look and the read
            self._about = self._read_about()
            raw = self._raw(test, values)
            rows, damaged = self._sorted(raw)
        if damaged:
            more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
            logger.warning("%s: block %s is left out: %s%s", self.folder, damaged[0].where, damaged[0].what, more)
        return rows, raw[-1][0] if raw else 0

    def _raw(
        self, test: str, values: Sequence[Any], connection: sqlite3.Connection | None = None
    ) -> list[tuple[Any, ...]]:
        query = f"SELECT {_COLUMNS} FROM blocks WHERE {test}"
        if connection is not None:
            return connection.execute(query, values).fetchall()
        with self._connections.reading() as connection:
            return connection.execute(query, values).fetchall()

    def _sorted(self, raw: Iterable[tuple[Any, ...]]) -> tuple[list[Row], list[Damage]]:
        """The rows that are as they were written, and what is wrong with the others."""
        rows, damaged = [], []
        for values in raw:
            try:
                rows.append(self._row(values))
            except _DAMAGED as error:
                name = values[1].hex() if isinstance(values[1], bytes) else f"number {values[0]}"
                damaged.append(Damage(name, str(error)))
        return rows, damaged

    def _row(self, values: tuple[Any, ...]) -> Row:
        number, key, length, slots, width, encoding, dtype, kept, text, segment, offset, size = values
        data = self._segments.read(segment, offset, size)
        if kept != checksum(data, self.fingerprint, key, length, slots, width, encoding, dtype, text):
            raise ValueError("its bytes have changed since they were written")
        return Row(number, key.hex(), Block(decode(EncodedBlock(data, encoding, dtype, slots, width)), length, text))

    def _values(self, key: str, block: Block, one: EncodedBlock) -> tuple[Any, ...]:
        text = block.text if self._about.keeps_text else None
        if text is not None:
            text = text.encode("utf-8", "replace").decode()  # SQLite takes no lone surrogates
        about = (bytes.fromhex(key), block.length, one.slots, one.width, one.encoding, one.dtype)
        return *about, checksum(one.data, self._about.fingerprint, *about, text), text

    # -- documents ---------------------------------------------------------------------------------------------

    def record(self, documents: Sequence[StoredDocument]) -> None:
        """Keep documents in one transaction, in place of what is there under their ids.

        Raises:
            MissingBlocks: a window's block is not in the store; nothing is kept.
            TypeError: metadata that JSON cannot hold.
        """
        ready = [(document, dump_metadata(document.metadata)) for document in documents]
        with self._connections.writing() as connection:
            wanted = {bytes.fromhex(window.key): document.id for document in documents for window in document.windows}
            there = {key for key, _ in _there(connection, list(wanted))}
            if len(there) < len(wanted):
                raise MissingBlocks({key.hex(): one for key, one in wanted.items() if key not in there})
            before = {key for document in documents for key in _remove(connection, document.id)}
            for document, metadata in ready:
                kept = document_checksum(document.id, document.digest, metadata, document.windows)
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
        """Those that are as they were written; the others go into ``damaged``, or are named in a warning."""
        with self._connections.reading() as connection:
            rows = connection.execute(f"{_WINDOWS} WHERE {test} ORDER BY d.id, w.number", values).fetchall()
        found = []
        for one, group in groupby(rows, key=lambda row: row[0]):
            try:
                found.append(_document(one, list(group)))
            except _DAMAGED as error:
                if damaged is None:
                    logger.warning("%s: document %s is left out: %s", self.folder, one, error)
                else:
                    damaged.append(Damage(str(one), str(error)))
        return found

    def find(self, document: str | None = None, where: Where | None = None) -> list[Window]:
        test, values = condition(where or {})
        if document is not None:
            test, values = f"{test} AND d.id = ?", [*values, document]
        return [place for one in self._documents(test, values) for place in placed(one)]

    def places(self, keys: Sequence[str], where: Where | None = None) -> list[Window]:
        test, values = condition(where or {})
        found: dict[str, list[Window]] = {key: [] for key in keys}
        for part in batches([bytes.fromhex(key) for key in found]):
            standing = f"d.id IN (SELECT document FROM windows WHERE key IN ({_marks(part)})) AND {test}"
            here = {key.hex() for key in part}
            for one in self._documents(standing, [*part, *values]):
                for window in placed(one):
                    if window.key in here:
                        found[window.key].append(window)
        return [one for key in keys for one in found[key]]

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
        about = self._about
        return StoreStats(
            self.url, self.fingerprint, about.encoding, about.keeps_text, blocks, documents, nbytes, FORMAT
        )

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
            forget_fingerprint(connection)
            move_generation(connection)
            set_place(connection, last + 1, 0)
        self._about = self._read_about()
        self._segments.remove([one for one in self._segments.sizes() if one <= last])
        self.compact()

    def verify(self, documents: Sequence[str] | None = None, *, mend: bool = False) -> list[Damage]:
        damages: list[Damage] = []
        try:
            self._about = self._read_about()  # another process may have filled it since
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


def _document(one: str, rows: Sequence[tuple[Any, ...]]) -> StoredDocument:
    """A document of its rows.

    Raises:
        ValueError: it is not as it was written.
    """
    _, digest, metadata, kept, *_ = rows[0]
    windows = tuple(Window(key.hex(), start, end) for *_, key, start, end in rows if key is not None)
    if kept != document_checksum(one, digest, metadata, windows):
        raise ValueError("it has changed since it was written")
    return StoredDocument(one, windows, digest, json.loads(metadata))


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

"""The embedded store: an SQLite file and one file of blocks in a folder, for one machine and any number of processes.

Blocks are appended first and then entered in one SQLite transaction for each call, so a kill leaves whole calls only.
Their bytes lie beside SQLite, because in it each is written twice (its log, then the file) and copied twice when read.
Documents are in `store.sqlite.documents`. Leaves out storage that machines share (`store.lance`) and search.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from clara_model.errors import ClaraError
from clara_model.store.encodings import Encoded, check_encoding, checksum, decode, encode
from clara_model.store.protocol import Block, Damage, Row, StoreStats, check_fingerprint
from clara_model.store.sqlite.connection import Connections
from clara_model.store.sqlite.documents import SQLiteDocuments
from clara_model.store.sqlite.schema import FORMAT, About, claim, create, place, read_about, set_place
from clara_model.store.sqlite.segments import Replaced, Segments

logger = logging.getLogger(__name__)

FILE = "latents.sqlite"
_AT_ONCE = 256
"""Rows in memory at a time."""
_DAMAGED = (ValueError, TypeError)
_COLUMNS = "number, key, length, slots, width, encoding, dtype, checksum, text, segment, offset, size"


class SQLiteStore(SQLiteDocuments):
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
        super().__init__(Connections(self.folder / FILE, read_only=_prepared(self.folder)))
        self._segments = Segments(self.folder)
        if not self._connections.read_only:
            create(self._connections, encoding, keep_text)
        self._about: About = self._read_about()
        self._check(encoding, keep_text)

    def _check(self, encoding: str | None, keep_text: bool | None) -> None:
        for name, asked, own in (
            ("encoding", encoding, self._about.encoding),
            ("keep_text", keep_text, self._about.keeps_text),
        ):
            if asked is not None and asked != own:
                raise ClaraError(
                    f"{self.folder} has {name} {own} and {asked} was asked for; leave {name} out, or copy the store"
                )

    def _read_about(self) -> About:
        with self._connections.reading() as connection:
            return read_about(connection, self.folder)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same folder."""
        return type(self), (str(self.folder),)

    @property
    def url(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def identity(self) -> str:
        """A name that no other store has."""
        return self._about.identity

    @property
    def fingerprint(self) -> str | None:
        """Of the checkpoint whose latents it holds; None before the first `put`."""
        if self._about.fingerprint is None:
            self._about = self._read_about()
        return self._about.fingerprint

    # -- blocks ------------------------------------------------------------------------------------------------

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        """The blocks of these keys, ``None`` where there is none or it is damaged (which is logged).

        Raises:
            ClaraError: the store is another checkpoint's, or cannot be read.
        """
        if self.fingerprint is None:
            return [None] * len(keys)
        check_fingerprint(str(self.folder), self.fingerprint, fingerprint)
        found = {row.key: row.block for row in self._select("key", [bytes.fromhex(key) for key in dict.fromkeys(keys)])}
        return [found.get(key) for key in keys]

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        """Keep blocks in one transaction, in place of what is there under their keys.

        Raises:
            ClaraError: the store is another checkpoint's, cannot be written, or a block is not finite; nothing is kept.
        """
        if not blocks:
            return
        encoded = [encode(block.vector, self._about.encoding) for block in blocks.values()]
        with self._connections.writing() as connection:
            self._about = replace(self._about, fingerprint=claim(connection, fingerprint))
            check_fingerprint(str(self.folder), self.fingerprint, fingerprint)
            segment, end = place(connection, self.folder)
            rows = []
            offset = end
            for (key, block), one in zip(blocks.items(), encoded, strict=True):
                rows.append((*self._values(key, block, one), segment, offset, len(one.data)))
                offset += len(one.data)
            self._segments.write(segment, end, [one.data for one in encoded])
            connection.executemany(_PUT, rows)
            set_place(connection, segment, offset)

    def delete(self, keys: Sequence[str]) -> int:
        """Forget blocks; how many there were."""
        with self._connections.writing() as connection:
            return sum(
                connection.execute("DELETE FROM blocks WHERE key = ?", (bytes.fromhex(key),)).rowcount for key in keys
            )

    def iterate(self, after: int = 0) -> Iterator[Row]:
        """All blocks with a number above ``after``, in order, without damaged ones; holds a few hundred at a time."""
        while True:
            rows, last = self._found("number > ? ORDER BY number LIMIT ?", [after, _AT_ONCE])
            if not last:
                return
            yield from rows
            after = last

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """The blocks with these numbers, in this order, without those that are gone or damaged."""
        found = {row.number: row for row in self._select("number", list(dict.fromkeys(numbers)))}
        return [found[number] for number in numbers if number in found]

    def numbers(self, keys: Sequence[str]) -> dict[str, int]:
        """The number of each key that is there."""
        found: dict[str, int] = {}
        with self._connections.reading() as connection:
            for part in _parts([bytes.fromhex(key) for key in keys]):
                query = f"SELECT key, number FROM blocks WHERE key IN ({_marks(part)})"
                found.update((key.hex(), number) for key, number in connection.execute(query, part).fetchall())
        return found

    def _select(self, column: str, values: Sequence[bytes | int]) -> Iterator[Row]:
        for part in _parts(values):
            test = f"{column} IN ({_marks(part)})"
            yield from self._found(test, part)[0]

    def _found(self, test: str, values: Sequence[Any]) -> tuple[list[Row], int]:
        """The intact rows, and the number of the last row."""
        raw = self._raw(test, values)
        try:
            return self._intact(raw, _DAMAGED), raw[-1][0] if raw else 0
        except Replaced:  # compacted in between: the rows now say where the blocks are
            raw = self._raw(test, values)
            return self._intact(raw), raw[-1][0] if raw else 0

    def _raw(self, test: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._connections.reading() as connection:
            return connection.execute(f"SELECT {_COLUMNS} FROM blocks WHERE {test}", values).fetchall()

    def _intact(
        self, raw: Iterable[tuple[Any, ...]], damage: tuple[type[Exception], ...] = (*_DAMAGED, Replaced)
    ) -> list[Row]:
        """The rows that are as they were written; others are named in one warning."""
        rows, damaged = [], []
        for values in raw:
            try:
                rows.append(self._row(values))
            except damage as error:
                damaged.append(f"block {_name(values)} is left out: {error}")
        if damaged:
            more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
            logger.warning("%s: %s%s", self.folder, damaged[0], more)
        return rows

    def _row(self, values: tuple[Any, ...]) -> Row:
        number, key, length, slots, width, encoding, dtype, kept, text, segment, offset, size = values
        data = self._segments.read(segment, offset, size)
        if kept != checksum(data, self._about.fingerprint, key, length, slots, width, encoding, dtype, text):
            raise ValueError("its bytes have changed since they were written")
        return Row(number, key.hex(), Block(decode(Encoded(data, encoding, dtype, slots, width)), length, text))

    def _values(self, key: str, block: Block, one: Encoded) -> tuple[Any, ...]:
        text = block.text if self._about.keeps_text else None
        if text is not None:
            text = text.encode("utf-8", "replace").decode()  # SQLite takes no lone surrogates
        about = (bytes.fromhex(key), block.length, one.slots, one.width, one.encoding, one.dtype)
        return *about, checksum(one.data, self._about.fingerprint, *about, text), text

    # -- the whole ---------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """What it holds."""
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
        """Give the room of deleted and damaged blocks back; needs as much free room as what is left takes."""
        with self._connections.writing() as connection:
            old, _ = place(connection, self.folder)
            end = self._copied(connection, old + 1)
            set_place(connection, old + 1, end)
        self._segments.keep_only(old + 1)
        with self._connections.reading() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _copied(self, connection: sqlite3.Connection, segment: int) -> int:
        """Copy what is intact into a new segment and delete the other rows; where it ends."""
        self._segments.path(segment).unlink(missing_ok=True)  # of one that was killed in the middle
        self._segments.write(segment, 0, [])
        after = end = 0
        query = f"SELECT {_COLUMNS} FROM blocks WHERE number > ? ORDER BY number LIMIT {_AT_ONCE}"
        while raw := connection.execute(query, (after,)).fetchall():
            pieces: list[memoryview] = []
            start, after = end, raw[-1][0]
            intact = {row.number for row in self._intact(raw)}
            for values in raw:
                if values[0] not in intact:
                    connection.execute("DELETE FROM blocks WHERE number = ?", values[:1])
                    continue
                pieces.append(self._segments.read(*values[-3:]))
                move = "UPDATE blocks SET segment = ?, offset = ? WHERE number = ?"
                connection.execute(move, (segment, end, values[0]))
                end += len(pieces[-1])
            self._segments.write(segment, start, pieces)
        return end

    def verify(self) -> list[Damage]:
        """Read everything; what is damaged or missing, the file's own structure included."""
        damages: list[Damage] = []
        try:
            with self._connections.reading() as connection:
                lines = connection.execute("PRAGMA integrity_check").fetchall()
            damages += [Damage(FILE, line) for (line,) in lines if line != "ok"]
            damages += self._damaged_blocks()
            damages += self.damaged_documents()
        except ClaraError as error:
            damages.append(Damage(FILE, str(error)))
        return damages

    def _damaged_blocks(self) -> Iterator[Damage]:
        after = 0
        while raw := self._raw("number > ? ORDER BY number LIMIT ?", [after, _AT_ONCE]):
            for values in raw:
                try:
                    self._row(values)
                except (*_DAMAGED, Replaced) as error:
                    yield Damage(_name(values), str(error))
            after = raw[-1][0]

    def close(self) -> None:
        """Let go of the files, with everything on the disk; closing twice is fine."""
        self._segments.sync()
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_STORED = "length slots width encoding dtype checksum text segment offset size".split()
_PUT = f"INSERT OR REPLACE INTO blocks (key, {', '.join(_STORED)}) VALUES (?{', ?' * len(_STORED)})"


def _prepared(folder: Path) -> bool:
    """Make the folder if it is not there; whether what lies in it can be read only.

    Raises:
        ClaraError: a file is in its place, or the folder cannot be made or used.
    """
    if folder.exists() and not folder.is_dir():
        raise ClaraError(f"{folder} is a file; a store is a folder, so name another one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClaraError(f"{folder} cannot be made ({error.strerror}); name a folder that can be written to") from error
    file = folder / FILE
    try:
        if not file.exists():
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                raise ClaraError(f"{folder} holds no store and cannot be written to; check its permissions")
            return False
        return _only_readable(folder, file)
    except PermissionError as error:
        raise ClaraError(f"{folder} cannot be opened ({error.strerror}); check its permissions") from error


def _only_readable(folder: Path, file: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    if not os.access(file, os.R_OK, effective_ids=effective):
        raise ClaraError(f"{file} cannot be read (no permission); check its permissions")
    if os.access(folder, os.W_OK, effective_ids=effective) and os.access(file, os.W_OK, effective_ids=effective):
        return False
    waiting = file.with_name(f"{FILE}-wal")
    if waiting.exists() and waiting.stat().st_size:
        raise ClaraError(
            f"{folder} is read-only and its last writer did not close it; open it once where it can be written"
        )
    return True


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


def _marks(part: Sequence[Any]) -> str:
    return ",".join("?" * len(part))


def _name(values: tuple[Any, ...]) -> str:
    return values[1].hex() if isinstance(values[1], bytes) else f"number {values[0]}"

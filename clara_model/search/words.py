"""The texts of a store by their words: a full-text index beside the coarse one, whatever kind of store it is.

SQLite's FTS5 (``words.sqlite`` in the folder of the search index) keeps the words of each text under the number of its
block, which is never given twice; what has gone from the store goes from here when it is next looked at.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from clara_model.errors import ClaraError
from clara_model.search.bm25 import Rarity, words_of
from clara_model.store.protocol import DurableStore, batches

_WAIT = 60.0
"""Seconds that a process waits for another one that is writing."""
_FORM = "stems"
"""What stands in the index, so that one of whole words is made anew."""
_AT_ONCE = 1000
"""Texts in one transaction."""
_TABLES = (
    "CREATE TABLE about (identity TEXT NOT NULL, last INTEGER NOT NULL, size INTEGER NOT NULL, words INTEGER NOT NULL)",
    "CREATE VIRTUAL TABLE texts USING fts5 "
    "(words, length UNINDEXED, tokenize=\"unicode61 remove_diacritics 0 tokenchars '_'\")",
    "CREATE VIRTUAL TABLE held USING fts5vocab (texts, row)",
)


class WordIndex:
    """An index of one store's texts. Any number of threads and processes may use one file."""

    def __init__(self, folder: Path, store: DurableStore) -> None:
        """Nothing is opened before the first call."""
        self.folder, self._file, self._store = folder, folder / "words.sqlite", store
        self._up_to_date: tuple[int, int] | None = None

    def find(self, question: str, count: int, allowed: Iterable[int] | None = None) -> tuple[list[int], Rarity]:
        """The texts that share most words with a question (of those ``allowed``), with the index brought up to date.

        Returns:
            the numbers of at most ``count`` blocks, best first, and how rare the question's words are in the store.

        Raises:
            ClaraError: the file cannot be written.
        """
        asked = list(dict.fromkeys(words_of(question)))
        with self._connection() as connection:
            self._update(connection)
            size, words = connection.execute("SELECT size, words FROM about").fetchone()
            terms = "SELECT term, doc FROM held WHERE term IN (SELECT value FROM json_each(?))"
            rarity = Rarity(size, words / max(1, size), dict(connection.execute(terms, (json.dumps(asked),))))
            if not asked:
                return [], rarity
            only = "" if allowed is None else "AND rowid IN (SELECT value FROM json_each(:allowed)) "
            found = connection.execute(
                f"SELECT rowid FROM texts WHERE words MATCH :asked {only}ORDER BY bm25(texts), rowid LIMIT :count",
                {
                    "asked": " OR ".join(f'"{word}"' for word in asked),  # in quotes no word is an operator
                    "allowed": None if allowed is None else json.dumps(list(allowed)),
                    "count": count,
                },
            )
            return [number for (number,) in found], rarity

    def clear(self) -> None:
        """Forget everything."""
        for name in ("", "-wal", "-shm", "-journal"):
            self._file.with_name(f"{self._file.name}{name}").unlink(missing_ok=True)

    def _update(self, connection: sqlite3.Connection) -> None:
        """Take in what has been added to the store, and drop what has gone."""
        last = self._store.last_number  # read first: a store that is far away tells the generation that it has seen
        now = last, self._store.generation
        (seen,) = connection.execute("SELECT last FROM about").fetchone()
        if seen >= last and now == self._up_to_date:
            return
        rows = ((row.number, row.block.text) for row in self._store.iterate(seen) if row.block.text is not None)
        for batch in batches(((number, words_of(text)) for number, text in rows), _AT_ONCE):
            with _writing(connection):
                (seen,) = connection.execute("SELECT last FROM about").fetchone()  # another process may be ahead
                fresh = [(number, " ".join(words), len(words)) for number, words in batch if number > seen]
                connection.executemany("INSERT INTO texts (rowid, words, length) VALUES (?, ?, ?)", fresh)
                counts = batch[-1][0], len(fresh), sum(length for _, _, length in fresh)
                connection.execute("UPDATE about SET last = max(last, ?), size = size + ?, words = words + ?", counts)
        with _writing(connection):
            there = json.dumps(self._store.all_numbers())
            gone = "DELETE FROM texts WHERE rowid <= ? AND rowid NOT IN (SELECT value FROM json_each(?))"
            if connection.execute(gone, (last, there)).rowcount:
                left = connection.execute("SELECT count(*), coalesce(sum(length), 0) FROM texts").fetchone()
                connection.execute("UPDATE about SET size = ?, words = ?", left)
            connection.execute("UPDATE about SET last = max(last, ?)", (last,))
        self._up_to_date = now

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """With the tables, empty where another store's were."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=_WAIT, isolation_level=None)) as connection:
                if not self._is_own(connection):
                    self._make(connection)
                yield connection
        except sqlite3.OperationalError as error:
            raise ClaraError(
                f"the index of words {self._file} cannot be used ({error}); see ranking='latents'"
            ) from error
        except sqlite3.DatabaseError as error:
            self.clear()
            raise ClaraError(f"the index of words {self._file} was damaged ({error}) and is gone; ask again") from error
        except OSError as error:
            raise ClaraError(f"the index of words {self._file} cannot be written ({error})") from error

    @property
    def _identity(self) -> str:
        return f"{self._store.identity} {_FORM}"

    def _is_own(self, connection: sqlite3.Connection) -> bool:
        made = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'about'").fetchone()[0]
        return bool(made) and connection.execute("SELECT identity FROM about").fetchone() == (self._identity,)

    def _make(self, connection: sqlite3.Connection) -> None:
        with _writing(connection):
            if self._is_own(connection):  # another process has made it
                return
            for name in ("held", "texts", "about"):
                connection.execute(f"DROP TABLE IF EXISTS {name}")
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute("INSERT INTO about VALUES (?, 0, 0, 0)", (self._identity,))


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")

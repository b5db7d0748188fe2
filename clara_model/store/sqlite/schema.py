"""The tables of the SQLite store, and what a file says about itself: format, fingerprint, element type.

``blocks`` says by the hash of a window's text where its bytes lie (`store.sqlite.segments`) and what they are;
``documents`` have ``windows``. Every row has a checksum over all that a reader relies on.
"""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path

from clara_model.errors import ClaraError
from clara_model.store.encodings import ENCODINGS, EXACT
from clara_model.store.sqlite.connection import Connections

FORMAT = 1
"""Raised when an older version could no longer read what this one writes."""
APPLICATION_ID = 0x434C5241  # "CLRA"
_TABLES = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE blocks (
        number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, length INTEGER NOT NULL,
        slots INTEGER NOT NULL, width INTEGER NOT NULL, encoding TEXT NOT NULL, dtype TEXT NOT NULL,
        checksum BLOB NOT NULL, text TEXT,
        segment INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL)""",
    """CREATE TABLE documents (
        id TEXT PRIMARY KEY, digest TEXT NOT NULL, metadata TEXT NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE windows (
        document TEXT NOT NULL, number INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
        key BLOB NOT NULL, PRIMARY KEY (document, number)) WITHOUT ROWID""",
    "CREATE INDEX windows_by_key ON windows (key)",
)


def create(connections: Connections, encoding: str | None, keep_text: bool | None) -> None:
    """Make the tables unless they are there; two processes may try at once."""
    folder, name = connections.file.parent, connections.file.name
    half = any(folder.glob("data-*.bin"))  # looked for first: another process may be starting the store
    with connections.reading() as connection:
        if _has_tables(connection):
            return
        if half:
            raise ClaraError(
                f"{folder} is half a store: its blocks are there and {name} says nothing of them; "
                "a store that is in use is copied by: clara store copy STORE --to OTHER"
            )
        connection.execute("PRAGMA journal_mode=WAL")
    with connections.writing() as connection:
        if _has_tables(connection):
            return
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        for statement in _TABLES:
            connection.execute(statement)
        about = {
            "format": str(FORMAT),
            "identity": uuid.uuid4().hex,
            "encoding": encoding or EXACT,
            "keeps_text": str(int(keep_text is not False)),
            "segment": "1",
            "end": "0",
        }
        connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())


def _has_tables(connection: sqlite3.Connection) -> bool:
    """Whether there are any: another program's are refused by `read_about`."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def read_about(connection: sqlite3.Connection, folder: Path) -> tuple[str, str, bool, str | None]:
    """What the file says about itself: identity, element type, whether texts are kept, fingerprint.

    Raises:
        ClaraError: another program's file, a newer format, or values that make no sense.
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise ClaraError(f"{folder} holds an SQLite file that is not a store of latents; choose another folder")
    values = dict(connection.execute("SELECT name, value FROM about").fetchall())
    version = values.get("format", "")
    if version.isdigit() and int(version) > FORMAT:
        raise ClaraError(
            f"{folder} has format {version} and this version reads up to {FORMAT}; install a newer clara-integrations"
        )
    if version != str(FORMAT) or values.get("encoding") not in ENCODINGS or not values.get("identity"):
        raise ClaraError(f"{folder} is damaged: what it says about itself makes no sense ({values!r})")
    return values["identity"], values["encoding"], values.get("keeps_text") == "1", values.get("fingerprint")


def state(connection: sqlite3.Connection) -> tuple[str | None, int]:
    """The fingerprint, and how often blocks have gone or got another number (0 where an older version wrote)."""
    query = "SELECT name, value FROM about WHERE name IN ('fingerprint', 'generation')"
    found = dict(connection.execute(query).fetchall())
    return found.get("fingerprint"), int(found.get("generation", 0))


def move_generation(connection: sqlite3.Connection) -> None:
    """Blocks have gone or got another number. Inside a transaction."""
    counted = "INSERT INTO about VALUES ('generation', '1') ON CONFLICT (name) DO UPDATE SET value = value + 1"
    connection.execute(counted)


def claim(connection: sqlite3.Connection, fingerprint: str) -> str:
    """The store's fingerprint; this one from now on if it had none. Inside a transaction."""
    connection.execute("INSERT OR IGNORE INTO about VALUES ('fingerprint', ?)", (fingerprint,))
    return str(connection.execute("SELECT value FROM about WHERE name = 'fingerprint'").fetchone()[0])


def place(connection: sqlite3.Connection, folder: Path) -> tuple[int, int]:
    """The segment that is written to, and the offset where it ends. Inside a transaction."""
    values = dict(connection.execute("SELECT name, value FROM about WHERE name IN ('segment', 'end')").fetchall())
    segment, end = values.get("segment", ""), values.get("end", "")
    if not (segment.isdigit() and end.isdigit()):
        raise ClaraError(
            f"{folder} is damaged: where its blocks end makes no sense ({values!r}); copy it to a new store"
        )
    return int(segment), int(end)


def set_place(connection: sqlite3.Connection, segment: int, end: int) -> None:
    """Where the next block goes. Inside a transaction."""
    values = [(str(segment), "segment"), (str(end), "end")]
    connection.executemany("UPDATE about SET value = ? WHERE name = ?", values)

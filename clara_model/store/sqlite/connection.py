"""Connections to one SQLite file for many threads and processes, and its errors in one sentence each.

After a fork the child opens its own. Writing does not wait for the disk: a killed process loses nothing, a power cut
what was written last, but the file stays whole. Closing puts everything on the disk.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clara_model.errors import ClaraError
from clara_model.store.filters import add_functions

logger = logging.getLogger(__name__)

WAIT_SECONDS = 120.0
"""How long to wait for another process that is writing."""
_PRAGMAS = ("PRAGMA synchronous=NORMAL", "PRAGMA cell_size_check=ON", "PRAGMA journal_size_limit=16777216")


def prepared(file: Path) -> bool:
    """Make the file's folder if it is not there; whether what lies in it can be read only.

    Raises:
        ClaraError: a file is in its place, or the folder cannot be made or used.
    """
    folder = file.parent
    if folder.exists() and not folder.is_dir():
        raise ClaraError(f"{folder} is a file; a store is a folder, so name another one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClaraError(f"{folder} cannot be made ({error.strerror}); name a folder that can be written to") from error
    try:
        if not file.exists():
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                raise ClaraError(f"{folder} holds no store and cannot be written to; check its permissions")
            return False
        return _only_readable(file)
    except PermissionError as error:
        raise ClaraError(f"{folder} cannot be opened ({error.strerror}); check its permissions") from error


def _only_readable(file: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    if not os.access(file, os.R_OK, effective_ids=effective):
        raise ClaraError(f"{file} cannot be read (no permission); check its permissions")
    if os.access(file.parent, os.W_OK, effective_ids=effective) and os.access(file, os.W_OK, effective_ids=effective):
        return False
    waiting = file.with_name(f"{file.name}-wal")
    if waiting.exists() and waiting.stat().st_size:
        raise ClaraError(
            f"{file.parent} is read-only and its last writer did not close it; open it once where it can be written"
        )
    return True


class Connections:
    """Connections to ``file``: each caller has one to itself while it needs it, and leaves it to the next."""

    def __init__(self, file: Path, *, read_only: bool = False) -> None:
        """Nothing is opened yet; ``read_only`` takes the file as one that does not change."""
        self.file = file
        self.read_only = read_only
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection, with SQLite's errors explained.

        Raises:
            ClaraError: closed, or what SQLite had to say.
        """
        with explained(self.file):
            connection = self._take()
            try:
                yield connection
            finally:
                self._leave(connection)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is kept when the block ends, nothing of it if it raises."""
        if self.read_only:
            raise ClaraError(f"{self.file.parent} cannot be written to (read-only, or no permission); copy it first")
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close what nobody is using (what is in use closes when it is left), with what was written on the disk."""
        if self._pid != os.getpid() or self._closed:
            return
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        if idle and not self.read_only:
            idle[0].execute("PRAGMA synchronous=FULL")
            idle[0].execute("PRAGMA busy_timeout=0")  # somebody who is still at work will do it
            try:
                idle[0].execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                logger.warning("what was written last stays in %s-wal until there is room: %s", self.file, error)
        for connection in idle:
            connection.close()

    def _take(self) -> sqlite3.Connection:
        if self._pid != os.getpid():  # after a fork the parent's connections must not be used, nor closed
            self._start()
        with self._lock:
            if self._closed:
                raise ClaraError(f"the store {self.file.parent} is closed; open it again with open_store")
            if self._idle:
                return self._idle.pop()
        return self._open()

    def _leave(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _open(self) -> sqlite3.Connection:
        mode = "ro&immutable=1" if self.read_only else "rwc"
        connection = sqlite3.connect(
            f"{self.file.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=WAIT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.text_factory = _text
        add_functions(connection)
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        return connection


def _text(data: bytes) -> str:
    """A text as it lies there, even if it is no UTF-8 any more: its row's checksum tells."""
    return data.decode("utf-8", "surrogateescape")


@contextmanager
def explained(file: Path) -> Iterator[None]:
    """SQLite's errors as `ClaraError`, which says what can be done."""
    try:
        yield
    except sqlite3.Error as error:
        raise ClaraError(f"{file.parent}: {_advice(error)} ({error})") from error


def _advice(error: sqlite3.Error) -> str:
    text = str(error).lower()
    if "full" in text or "disk i/o" in text:
        return "the disk is full or failing, nothing of this call was kept; free some room and call again"
    if "locked" in text or "busy" in text:
        return f"another process has been writing for {WAIT_SECONDS:.0f} seconds; try again when it is done"
    if "readonly" in text or "unable to open" in text or "permission" in text:
        return "the store cannot be written to or opened; check the permissions of the folder and of its files"
    return (
        "the store is damaged; `clara store verify` lists what can no longer be read, and copying it to a new store "
        "keeps the rest"
    )

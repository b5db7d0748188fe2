"""A lock that is given to whoever has waited longest.

Python's own goes to whoever asks at the right moment, most often the thread that has just given it back. Then callers
who ask together drift apart: one writes its answer alone while the others still wait to encode their questions. In turn
all encode, and the first to write finds all others waiting to write with it (`inference.gathering`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

PATIENCE = 0.2
"""Seconds between two looks at whether what is waited for is still wanted (`FairLock.acquire`'s ``check``)."""


class FairLock:
    """First come, first served; whoever holds it may take it again."""

    def __init__(self) -> None:
        """Nobody holds it."""
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, timeout: float = -1, check: Callable[[], None] | None = None) -> bool:
        """Wait for the lock.

        Args:
            timeout: seconds to wait at most; -1: for ever.
            check: called now and then while waiting, which keeps its place; what it raises ends the wait.

        Returns:
            whether the lock is held now.
        """
        me, given = threading.get_ident(), threading.Event()
        with self._mutex:
            if self._owner in (None, me):
                self._owner, self._depth = me, self._depth + 1
                return True
            self._waiting.append((me, given))
        try:
            return self._wait(given, timeout, check) or not self._leave(me, given)
        except BaseException:
            if not self._leave(me, given):
                self.release()
            raise

    def release(self) -> None:
        """Give the lock to whoever has waited longest.

        Raises:
            RuntimeError: this thread does not hold it.
        """
        with self._mutex:
            if self._owner != threading.get_ident():
                raise RuntimeError("a lock can be given back only by the thread that holds it")
            self._depth -= 1
            if self._depth:
                return
            self._owner = None
            if self._waiting:
                self._owner, given = self._waiting.popleft()
                self._depth = 1
                given.set()

    def __enter__(self) -> FairLock:
        """Wait for the lock."""
        self.acquire()
        return self

    def __exit__(self, *_error: object) -> None:
        """Give it back."""
        self.release()

    def _wait(self, given: threading.Event, timeout: float, check: Callable[[], None] | None) -> bool:
        """Whether the lock was given in time."""
        end = None if timeout < 0 else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if check is not None:
                left = PATIENCE if left is None else min(left, PATIENCE)
            if given.wait(left):
                return True
            if end is not None and time.monotonic() >= end:
                return False
            if check is not None:
                check()

    def _leave(self, me: int, given: threading.Event) -> bool:
        """Wait no more; False where the lock was given in the meantime."""
        with self._mutex:
            if given.is_set():
                return False
            self._waiting.remove((me, given))
            return True

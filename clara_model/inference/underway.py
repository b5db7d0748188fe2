"""Blocks that some thread is making now, so that no other thread makes them too.

One table for each loaded model. A thread claims what it is about to make and says when it is there; who comes second
waits for it. Leaves out keeping blocks: that is the store's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future

from clara_model.store.cache import Block

Key = tuple[str, str]
"""What makes it (the checkpoint's fingerprint, and whether alone), and content key of the text."""


class Underway:
    """Who makes what."""

    def __init__(self) -> None:
        """Nothing is being made."""
        self._lock = threading.Lock()
        self._made: dict[Key, Future[Block | None]] = {}

    def after_fork(self) -> None:
        """In a forked child: nothing is being made, because no thread of the parent's is here."""
        self._lock = threading.Lock()
        self._made = {}

    def claim(self, keys: Iterable[Key]) -> tuple[list[Key], dict[Key, Future[Block | None]]]:
        """The keys that are the caller's to make now, and the results of those that other threads are making.

        What is claimed must be settled or released. A result of ``None`` says that the other thread gave up.
        """
        mine, others = [], {}
        with self._lock:
            for key in keys:
                if key in self._made:
                    others[key] = self._made[key]
                else:
                    self._made[key] = Future()
                    mine.append(key)
        return mine, others

    def settle(self, blocks: Mapping[Key, Block]) -> None:
        """Hand made blocks to those who wait for them."""
        with self._lock:
            results = [(self._made.pop(key), block) for key, block in blocks.items()]
        for result, block in results:
            result.set_result(block)

    def release(self, keys: Iterable[Key]) -> None:
        """Give up the keys that are not settled."""
        with self._lock:
            results = [self._made.pop(key) for key in keys if key in self._made]
        for result in results:
            result.set_result(None)

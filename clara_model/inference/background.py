"""Texts that are compressed after the answers that did without their latents, while nobody asks for anything.

One thread for each `Clara`, which is there only while texts wait. What goes wrong in it is logged at once, raised by
`flush`, and met again by the next question about the same texts, which compresses them itself. A process that ends
finishes what a store keeps and drops what would be gone with it. Leaves out what compressing is (`inference.engine`)
and which texts wait (`inference.requests`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

Work = Callable[[Sequence[str]], object]
GRACE = 0.05
"""Seconds since the last question before the model is taken: who has ranked may be about to answer."""
PATIENCE = 1.0
"""Seconds after which it is taken in any case, so that texts come through where somebody always asks."""
ANSWERS_WITHOUT = 2
"""Answers from text in which a text may wait; the next question compresses it itself."""


class Background:
    """Waiting texts and the thread that works on them. Any number of threads may call it."""

    def __init__(self, at_once: int, *, lasting: bool) -> None:
        """Nothing waits, and no thread is started.

        Args:
            at_once: texts that are compressed together; a question that comes meanwhile waits for no more than these.
            lasting: whether the latents outlive the process.
        """
        self._at_once, self._lasting = at_once, lasting
        self._start_anew()

    def _start_anew(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._waiting: dict[str, int] = {}
        """With the answers that have been given without it."""
        self._due: set[str] = set()
        """What could not be compressed here."""
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._work: Work | None = None
        """Only while there is a thread, because it holds the model."""
        self._asked = 0.0

    def _here(self) -> threading.Condition:
        """The lock; in a forked child, where the parent's thread is not, nothing waits."""
        if self._process != os.getpid():
            self._start_anew()
        return self._changed

    def touch(self) -> None:
        """Somebody asks for something."""
        self._asked = time.monotonic()

    def add(self, texts: Sequence[str], work: Work, *, answered: bool) -> None:
        """Have texts compressed soon.

        Args:
            texts: that are not compressed twice if they wait already.
            work: compresses some and keeps their latents.
            answered: whether an answer has been given without them.
        """
        with self._here():
            for text in texts:
                self._waiting[text] = self._waiting.get(text, 0) + answered
            if self._waiting and self._thread is None:
                self._work = work
                self._thread = threading.Thread(target=self._run, name="clara-background")
                self._thread.start()

    def due(self, texts: Sequence[str]) -> bool:
        """Whether some of these have waited for long enough, or failed here: then the caller compresses them."""
        with self._here():
            return any(text in self._due or self._waiting.get(text, 0) >= ANSWERS_WITHOUT for text in texts)

    def settled(self, texts: Sequence[str]) -> None:
        """A caller has compressed these."""
        with self._here():
            self._due.difference_update(texts)

    def flush(self) -> None:
        """Wait until no text waits.

        Raises:
            BaseException: what has gone wrong since the last flush.
        """
        with self._here():
            self._changed.wait_for(lambda: self._thread is None)
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Finish what a store keeps, drop the rest; returns when the thread has ended."""
        with self._here():
            if not self._lasting:
                self._waiting.clear()
            self._changed.wait_for(lambda: self._thread is None)

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while texts := self._next():
            self._pause()
            try:
                assert self._work is not None
                self._work(texts)
            except BaseException as error:  # raised by `flush`, and by the next question about these texts
                self._fail(error)
            else:
                with self._changed:
                    for text in texts:
                        self._waiting.pop(text, None)

    def _next(self) -> list[str]:
        """The next texts; with none the thread is at its end, and whoever waits for that is told."""
        with self._changed:
            if not self._lasting and not threading.main_thread().is_alive():
                self._waiting.clear()
            texts = list(self._waiting)[: self._at_once]
            if not texts:
                self._thread = self._work = None
                self._changed.notify_all()
            return texts

    def _pause(self) -> None:
        end = time.monotonic() + PATIENCE
        while threading.main_thread().is_alive() and time.monotonic() < min(end, self._asked + GRACE):
            time.sleep(GRACE / 5)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            count, self._error = len(self._waiting), error
            self._due.update(self._waiting)
            self._waiting.clear()
        logger.error(
            "compressing in the background failed with %d documents to go: %s; the next question about them "
            "compresses them itself", count, error, exc_info=error,
        )  # fmt: skip

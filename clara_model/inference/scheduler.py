"""The one owner of a loaded model: a thread that runs the passes of all who use it, first come, first served.

Callers hand in jobs and wait for their results; a caller has one job in the queue at a time, so others get their turn
between two batches. A job may share its batch with like jobs that wait behind it: nobody waits for company, and
sixty-four questions at a time share passes whose cost is reading the weights once. Texts that somebody is compressing
are waited for and not compressed again. What may wait is compressed when nobody asks. Leaves out what a pass is
(`inference.pipeline`) and keeping latents: a store is never asked in this thread.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from clara_model.inference.pipeline import Check, Pass
from clara_model.store.cache import Block

logger = logging.getLogger(__name__)

PATIENCE = 0.2
"""Seconds between two looks at whether a result is still wanted."""
GRACE = 0.05
"""Seconds since the last question before texts are compressed in the background: who has ranked may answer next."""
GRACE_AT_MOST = 1.0
"""Seconds after which they are compressed in any case, so that they come through where somebody always asks."""
ANSWERS_WITHOUT = 2
"""Answers from text in which a text may wait; the next question compresses it itself."""

Result = TypeVar("Result")
Key = tuple[str, str]
"""Of a block being made: the checkpoint's fingerprint (and whether one text a pass), and the text's content key."""

Text = tuple[str, str]
"""Content key and text of what is compressed in the background."""
Making = Future[Block | None]
"""A block that is being made; ``None`` where its maker gave up."""


class CancelledError(Exception):
    """Nobody wants the result any more."""


@dataclass(frozen=True)
class Share:
    """With which jobs a job may share a batch: those whose ``like`` is equal, as far as they fit."""

    like: object
    width: int
    """Positions of its longest item."""
    positions: int
    """In one batch at most, padding included."""
    items: int | None = None
    """In one batch at most."""


class Job(Future[Any]):
    """What is to be done in one pass, and later what came of it."""

    def __init__(self, work: Pass, items: Sequence[Any] = (), share: Share | None = None) -> None:
        super().__init__()
        self.work: Pass | None = work
        self.items, self.share = items, share
        self.wanted = True
        self.seconds = 0.0
        """Of the pass."""
        self.cpu_threads = torch.get_num_threads()  # torch counts them for each thread; the caller's number holds


class Scheduler:
    """The queue of one model and the thread that works on it. Any number of threads may call it; a fork starts anew."""

    def __init__(self) -> None:
        self._start_anew()

    def _start_anew(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._queue: list[Job] = []
        self._running: list[Job] = []
        self._in_flight: dict[Key, Making] = {}
        self.made = 0
        """How often blocks have been made: what was not there before may be kept by now where this has moved."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self._asked = 0.0

    def _here(self) -> threading.Condition:
        """The lock; in a forked child, where no thread of the parent's is, nothing waits and nothing is being made."""
        if self._process != os.getpid():
            self._start_anew()
        return self._changed

    # -- jobs --------------------------------------------------------------------------------------------------

    def submit(self, work: Pass, items: Sequence[Any] = (), share: Share | None = None) -> Job:
        """Put a job at the end of the queue."""
        job = Job(work, items, share)
        with self._here():
            if self._closed:
                job.set_exception(CancelledError("the model has been let go of"))
                return job
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._own, name="clara-model", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def run(
        self, work: Pass, items: Sequence[Any] = (), share: Share | None = None, check: Check | None = None
    ) -> tuple[Any, float]:
        """Have a job done.

        A caller that is interrupted, or whose ``check`` raises, leaves: a job in the queue is taken out, a pass that
        nobody else wants ends at its next token.

        Returns:
            its result, and the seconds of its pass.
        """
        job = self.submit(work, items, share)
        try:
            return wait_for(job, check), job.seconds
        except BaseException:
            self._leave(job)
            raise
        finally:
            del job  # the traceback of its error holds this frame

    def _leave(self, job: Job) -> None:
        with self._here():
            job.wanted = False
            if job in self._queue:
                self._queue.remove(job)
            if job not in self._running or any(other.wanted for other in self._running):
                return
        wait((job,))

    def _own(self) -> None:
        """The owner's life: one batch after the other."""
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Wait for a job, run it with those that share its batch; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return False
            group = self._running = self._taken()
        first, items = group[0], [item for job in group for item in job.items]
        if torch.get_num_threads() != first.cpu_threads:
            torch.set_num_threads(first.cpu_threads)
        start, made, failed = time.perf_counter(), None, None
        try:
            assert first.work is not None
            made = first.work(items, self._check)
        except BaseException as error:
            failed = error
        try:
            self._finish(group, made, failed, time.perf_counter() - start)
        finally:
            del group, first, items, made, failed  # of an error, whose traceback holds this frame
        return True

    def _taken(self) -> list[Job]:
        """The job that has waited longest, and those behind it that fit its batch."""
        group = [self._queue.pop(0)]
        share = group[0].share
        if share is None:
            return group
        count, width = len(group[0].items), share.width
        for other in list(self._queue):
            if other.share is None or other.share.like != share.like:
                continue
            wider, more = max(width, other.share.width), count + len(other.items)
            if wider * more <= share.positions and more <= (share.items or more):
                group.append(other)
                self._queue.remove(other)
                count, width = more, wider
        return group

    def _check(self) -> None:
        if not any(job.wanted for job in self._running):
            raise CancelledError

    def _finish(self, group: list[Job], made: Any, failed: BaseException | None, seconds: float) -> None:
        """Give the results out; where a shared batch has failed, each of its jobs is run by itself."""
        with self._changed:
            self._running = []
            if failed is not None and len(group) > 1:
                again = [job for job in group if job.wanted]
                for job in again:
                    job.share = None
                self._queue[:0] = again
                group = [job for job in group if not job.wanted]
            self._asked = time.monotonic()
            if self._closed:
                return
        start = 0
        for job in group:
            job.work, job.seconds = None, seconds  # the work holds the model, which its caller may let go of now
            if failed is not None:
                job.set_exception(failed)
            else:
                job.set_result(made if len(group) == 1 else made[start : start + len(job.items)])
            start += len(job.items)

    def close(self) -> None:
        """End the thread, at a pass's next token. Who still waits (a daemon at a program's end) is told nothing."""
        with self._here():
            self._closed, thread = True, self._thread
            self._queue.clear()
            for job in self._running:
                job.wanted = False
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # -- blocks that are being made ----------------------------------------------------------------------------

    @contextmanager
    def making(self, keys: Iterable[Key]) -> Iterator[tuple[dict[Key, Making], dict[Key, Making]]]:
        """Make blocks that nobody else is making.

        Yields:
            the caller's to make, each with the future to set when it is kept; and the futures of those that others
            are making, to be waited for outside the block.
        """
        mine: dict[Key, Making] = {}
        others: dict[Key, Making] = {}
        with self._here():
            for key in keys:
                if key in self._in_flight:
                    others[key] = self._in_flight[key]
                else:
                    mine[key] = self._in_flight[key] = Future()
        try:
            yield mine, others
        finally:
            with self._here():
                self.made += bool(mine)
                for key in mine:
                    self._in_flight.pop(key, None)
            for made in mine.values():
                if not made.done():
                    made.set_result(None)

    # -- quiet -------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Somebody asks for something."""
        self._asked = time.monotonic()

    def wait_for_quiet(self) -> None:
        """Wait until nobody has asked for `GRACE`, at most `GRACE_AT_MOST`; not at all where the program is ending."""
        end = time.monotonic() + GRACE_AT_MOST
        while threading.main_thread().is_alive() and time.monotonic() < end:
            if not self._queue and not self._running and time.monotonic() >= self._asked + GRACE:
                return
            time.sleep(GRACE / 5)


def wait_for(future: Future[Result], check: Check | None = None) -> Result:
    """The result of a future; what ``check`` raises ends the wait."""
    while not wait((future,), PATIENCE).done:
        if check is not None:
            check()
    try:
        return future.result()
    finally:
        del future  # the traceback of its error holds this frame


class Passes:
    """One caller's passes, by phase, with their seconds; ``check`` raises where nobody wants them any more."""

    def __init__(self, scheduler: Scheduler, check: Check | None = None) -> None:
        self._scheduler, self._check = scheduler, check
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __call__(self, phase: str, work: Pass, items: list[Any], share: Share | None = None) -> Any:
        """Have one done."""
        if self._check is not None:
            self._check()
        made, seconds = self._scheduler.run(work, items, share, self._check)
        self.seconds[phase] += seconds
        return made


class Background:
    """Texts of one `Clara` that are compressed after the answers that did without their latents, when nobody asks.

    Its thread is there only while texts wait. What goes wrong in it is logged at once, raised by `flush`, and met again
    by the next question about the same texts, which compresses them itself. A process that ends finishes what a store
    keeps and drops what would be gone with it. Any number of threads may call it.
    """

    def __init__(self, scheduler: Scheduler, at_once: int, *, lasting: bool) -> None:
        """``at_once`` texts are compressed together; ``lasting`` says whether the latents outlive the process."""
        self._scheduler, self._at_once, self._lasting = scheduler, at_once, lasting
        self._start_anew()

    def _start_anew(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._waiting: dict[Text, int] = {}
        """With the answers that have been given without it."""
        self._due: set[Text] = set()
        """What could not be compressed here."""
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._compress: Callable[[Sequence[Text]], object] | None = None
        """Only while there is a thread, because it holds the model."""

    def _here(self) -> threading.Condition:
        if self._process != os.getpid():
            self._start_anew()
        return self._changed

    def add(self, texts: Iterable[Text], compress: Callable[[Sequence[Text]], object], *, answered: bool) -> None:
        """Have texts compressed and kept soon; ``answered`` says whether an answer has been given without them."""
        with self._here():
            for text in texts:
                self._waiting[text] = self._waiting.get(text, 0) + answered
            if self._waiting and self._thread is None:
                self._compress = compress
                self._thread = threading.Thread(target=self._run, name="clara-background")
                self._thread.start()

    def due(self, texts: Iterable[Text]) -> bool:
        """Whether some of these have waited for long enough, or failed here: then the caller compresses them."""
        with self._here():
            return any(text in self._due or self._waiting.get(text, 0) >= ANSWERS_WITHOUT for text in texts)

    def settled(self, texts: Iterable[Text]) -> None:
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

    def _run(self) -> None:
        while texts := self._next():
            self._scheduler.wait_for_quiet()
            try:
                assert self._compress is not None
                self._compress(texts)
            except BaseException as error:  # raised by `flush`, and by the next question about these texts
                self._fail(error)
            else:
                with self._changed:
                    for text in texts:
                        self._waiting.pop(text, None)

    def _next(self) -> list[Text]:
        """The next texts; with none the thread is at its end, and whoever waits for that is told."""
        with self._changed:
            if not self._lasting and not threading.main_thread().is_alive():
                self._waiting.clear()
            texts = list(self._waiting)[: self._at_once]
            if not texts:
                self._thread = self._compress = None
                self._changed.notify_all()
            return texts

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            count, self._error = len(self._waiting), error
            self._due.update(self._waiting)
            self._waiting.clear()
        logger.error(
            "compressing in the background failed with %d documents to go: %s; the next question about them "
            "compresses them itself", count, error, exc_info=error,
        )  # fmt: skip

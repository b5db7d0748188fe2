"""A model that is busy, so that a test can look at who waits for it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clara_model.inference.scheduler import Scheduler


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that must come true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@contextmanager
def busy(scheduler: Scheduler, seconds: float = 120) -> Iterator[threading.Event]:
    """The owner of a model is in the middle of a pass inside the block, or until the event is set."""
    started, go = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        started.set()
        assert go.wait(seconds), "nobody let it go on"

    job = scheduler.submit(hold)
    assert started.wait(60)
    try:
        yield go
    finally:
        go.set()
        job.result(60)


def queued(scheduler: Scheduler, count: int) -> None:
    """Wait until so many jobs wait."""
    until(lambda: len(scheduler._queue) >= count)

"""The model's lock goes to whoever has waited longest, and who gives up leaves no trace."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from clara_model.inference.fair_lock import PATIENCE, FairLock


def queued(lock: FairLock, count: int) -> None:
    """Wait until so many wait."""
    end = time.monotonic() + 60
    while len(lock._waiting) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_first_come_first_served():
    lock, order = FairLock(), []

    def take(number: int) -> None:
        for turn in range(2):  # who has had a turn stands behind all who wait
            with lock:
                order.append((turn, number))

    with ThreadPoolExecutor(5) as pool:
        with lock:
            for number in range(5):
                pool.submit(take, number)
                queued(lock, number + 1)
    assert order == [(turn, number) for turn in range(2) for number in range(5)]


def test_who_holds_it_may_take_it_again():
    lock = FairLock()
    with lock, lock:
        assert lock.acquire(timeout=0)
        lock.release()
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(lock.acquire, timeout=0).result()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.acquire, timeout=0).result()


def test_only_the_holder_gives_it_back():
    lock = FairLock()
    with pytest.raises(RuntimeError, match="only by the thread that holds it"):
        lock.release()
    with lock, ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="only by the thread that holds it"):
        pool.submit(lock.release).result()


def test_who_waits_no_longer_is_passed_over():
    lock = FairLock()
    with ThreadPoolExecutor(2) as pool:
        with lock:
            impatient = pool.submit(lock.acquire, timeout=0.05)
            queued(lock, 1)
            patient = pool.submit(lambda: lock.acquire() and threading.get_ident())
            assert impatient.result() is False
            queued(lock, 1)
        assert patient.result()
    assert lock._owner == patient.result() and not lock._waiting


def raising(times: int) -> Callable[[], None]:
    """A check that ends the wait at its last call."""
    calls = iter(range(times))

    def check() -> None:
        if next(calls) == times - 1:
            raise InterruptedError("nobody reads")

    return check


def test_a_check_keeps_its_place_and_may_end_the_wait():
    lock, order = FairLock(), []

    def take(name: str, **how: object) -> None:
        lock.acquire(**how)
        order.append(name)
        lock.release()

    with ThreadPoolExecutor(3) as pool:
        with lock:
            pool.submit(take, "checked", check=raising(10**6))
            queued(lock, 1)
            pool.submit(take, "after it")
            queued(lock, 2)
            ended = pool.submit(take, "never", check=raising(2))
            assert isinstance(ended.exception(10 + 4 * PATIENCE), InterruptedError)
            queued(lock, 2)
        pool.shutdown()
    assert order == ["checked", "after it"] and lock._owner is None


def test_a_wait_that_is_interrupted_when_the_lock_is_given_gives_it_back(monkeypatch: pytest.MonkeyPatch):
    lock = FairLock()

    def interrupted(self: FairLock, given: threading.Event, *_how: object) -> bool:
        assert given.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(FairLock, "_wait", interrupted)
    with ThreadPoolExecutor(1) as pool:
        with lock:
            ended = pool.submit(lock.acquire)
            queued(lock, 1)
        assert isinstance(ended.exception(60), KeyboardInterrupt)
    assert lock._owner is None and lock.acquire(timeout=0)

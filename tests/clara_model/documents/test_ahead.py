"""Items made in a thread: their order, their errors, how far ahead, and that the thread ends."""

import threading
import time
from collections.abc import Iterator

import pytest

from clara_model.documents.corpus import ahead


def reading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reading ahead")]


def test_they_come_in_their_order_from_another_thread():
    with ahead((number, threading.current_thread()) for number in range(20)) as items:
        found = list(items)
    assert [number for number, _ in found] == list(range(20))
    assert threading.current_thread() not in {thread for _, thread in found}


def test_the_next_is_made_while_the_last_is_used():
    begun = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        yield 2

    with ahead(items()) as found:
        assert next(found) == 1
        assert begun.wait(30)  # nobody has asked for the second
        assert next(found) == 2


def test_no_more_are_made_than_may_wait():
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with ahead(items(), most=3) as taken:
        assert next(taken) == 0
        time.sleep(0.3)
        assert len(made) <= 1 + 3 + 1  # taken, waiting, and one in the hand
    assert reading() == []
    assert len(made) <= 5


@pytest.mark.parametrize("error", [ValueError("two"), KeyboardInterrupt("two")])
def test_an_error_comes_where_the_item_would_have(error: BaseException):
    def items() -> Iterator[int]:
        yield 1
        raise error

    taken: list[int] = []
    with pytest.raises(type(error), match="two"), ahead(items()) as found:
        taken.extend(found)
    assert taken == [1]
    assert reading() == []


def test_an_error_of_the_taker_ends_the_thread():
    with pytest.raises(ZeroDivisionError), ahead(iter(range(1000))) as found:
        next(found)
        _ = 1 / 0
    assert reading() == []


def test_nothing_at_all():
    with ahead([]) as found:
        assert list(found) == []

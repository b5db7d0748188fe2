"""The next items made in a thread while the last one is used: reading and splitting beside computing.

Leaves out what the items are. A thread is enough: what computes lets others run meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")
_LOOK = 0.1
"""Seconds between two looks at whether anybody still takes the items."""
_ITEM, _ERROR, _END = range(3)


@contextmanager
def ahead(items: Iterable[T], most: int = 2) -> Iterator[Iterator[T]]:
    """Take items that are made in a thread, in their order, for the block's time; the thread ends with it.

    Args:
        items: an iterator that nobody else uses until the block has ended.
        most: items that are made before they are asked for.

    Yields:
        the items; what making one raises is raised where it would have come.
    """
    waiting: Queue[tuple[int, Any]] = Queue(most)
    ended = Event()
    thread = Thread(target=_make, args=(items, waiting, ended), name="reading ahead", daemon=True)
    thread.start()
    try:
        yield _taken(waiting)
    finally:
        ended.set()
        thread.join()


def _make(items: Iterable[Any], waiting: Queue[tuple[int, Any]], ended: Event) -> None:
    try:
        for item in items:
            if not _offered((_ITEM, item), waiting, ended):
                return
    except BaseException as error:  # whoever takes the items gets it
        _offered((_ERROR, error), waiting, ended)
    else:
        _offered((_END, None), waiting, ended)


def _offered(one: tuple[int, Any], waiting: Queue[tuple[int, Any]], ended: Event) -> bool:
    """Whether it was put into the queue before everything ended."""
    while not ended.is_set():
        try:
            waiting.put(one, timeout=_LOOK)
        except Full:
            continue
        return True
    return False


def _taken(waiting: Queue[tuple[int, Any]]) -> Iterator[Any]:
    while True:
        kind, item = waiting.get()
        if kind == _END:
            return
        if kind == _ERROR:
            raise item
        yield item

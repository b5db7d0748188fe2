"""Lists of a framework's documents, whatever their type: copies of one text, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import TypeVar

Item = TypeVar("Item")


def best_copies(items: Iterable[Item], key: Callable[[Item], str], score: Callable[[Item], float | None]) -> list[Item]:
    """One item of each key: the one with the best score, the first of equals, where the key came first."""
    best: dict[str, Item] = {}
    for item in items:
        kept = best.get(key(item))
        if kept is None or _number(score(item)) > _number(score(kept)):
            best[key(item)] = item
    return list(best.values())


def _number(score: float | None) -> float:
    return -inf if score is None else score


def in_batches(items: list[Item], size: int) -> Iterator[list[Item]]:
    """Lists of at most ``size`` items, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]

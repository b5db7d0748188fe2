"""Documents of a framework, whatever their type: copies of one text, batches, the text of what a search has found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING, TypeVar

from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.inference.results import Found

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


def passage_text(found: Found, owner: str) -> str:
    """The text of a passage that a search has found.

    Raises:
        ClaraError: the store keeps none, so that nothing could be read from the passage in any other place.
    """
    if found.text is None:
        raise ClaraError(f"{owner}: the store keeps no texts (it was made with --no-text); use one that keeps them")
    return found.text

"""What the components of both frameworks share: their defaults and their rules, the table of ``docs/edge-cases.md``.

Imports neither framework, nor torch. Leaves out the model that they hold (`clara_integrations.holder`) and all
arithmetic: that is ``clara_model``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from clara_model import defaults
from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.inference.results import Found

Item = TypeVar("Item")

DEFAULT_MODEL = defaults.DEFAULT_MODEL
DEFAULT_TOP_K = 10
DEFAULT_DIMENSIONS = defaults.DIMENSIONS
"""Size of an embedding that stands for a block of latents in a first-stage index."""

GENERATION = (
    *("max_new_tokens", "stop", "do_sample", "temperature", "top_p", "sampling_top_k", "min_p", "typical_p"),
    *("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "num_beams", "length_penalty"),
    *("early_stopping", "seed"),
)
"""The arguments of `clara_model.Clara.answer` that say how to generate."""


@contextmanager
def naming_extra(framework: str, extra: str) -> Iterator[None]:
    """Imports inside the block that fail because the framework is not installed say which extra brings it.

    Raises:
        ModuleNotFoundError: as it was, but for its text.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != framework:
            raise
        raise ModuleNotFoundError(
            f"{error.name} is not installed; the extra {extra!r} brings it: pip install '.[{extra}]' in a checkout of "
            "clara-integrations",
            name=error.name,
        ) from error


def check_known(given: Collection[str], known: Collection[str], what: str, owner: str) -> None:
    """Names that are all known.

    Raises:
        TypeError: an unknown one; names the nearest known one, and all.
    """
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TypeError(f"{owner}: unknown {what} {name!r}; {hint}known are {', '.join(known)}")


def check_top(value: int, name: str, owner: str) -> int:
    """A number of documents (or the like), at least 1; ``name`` and ``owner``, its class, are for the error.

    Raises:
        TypeError: not a whole number.
        ValueError: below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be a whole number, but got {value!r}")
    if value <= 0:
        raise ValueError(f"{owner}: {name} must be > 0, but got {value}")
    return value


def check_query(query: object, owner: str) -> str:
    """A question that says something.

    Raises:
        TypeError: not a string.
        ValueError: blank.
    """
    if not isinstance(query, str):
        raise TypeError(f"{owner}: query must be a string, but got {type(query).__name__}")
    if not query.strip():
        raise ValueError(f"{owner}: query must not be blank, but got {query!r}")
    return query


def passage_text(found: Found, owner: str) -> str:
    """The text of a passage that a search has found.

    Raises:
        ClaraError: the store keeps none, so that nothing could be read from the passage in any other place.
    """
    if found.text is None:
        raise ClaraError(f"{owner}: the store keeps no texts (it was made with --no-text); use one that keeps them")
    return found.text


def check_generation(options: Mapping[str, Any] | None, owner: str) -> dict[str, Any]:
    """Keyword arguments for `Clara.answer` by name; their values are checked there.

    Raises:
        ValueError: one that the component sets itself.
        TypeError: an unknown one.
    """
    for name in ("top_k", "rerank"):
        if name in (options or {}):
            raise ValueError(
                f"{owner}: {name} is an argument of the component, not of the generation; sampling from the best "
                "tokens is sampling_top_k"
            )
    check_known(options or {}, GENERATION, "generation argument", owner)
    return dict(options or {})


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

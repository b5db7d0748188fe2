"""The components' defaults and the checks of what users pass to them: the table of ``docs/edge-cases.md``.

Imports neither framework, nor torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from clara_model import defaults
from clara_model.checkpoint.options import GENERATION

DEFAULT_MODEL = defaults.DEFAULT_MODEL
DEFAULT_TOP_K = 10
NO_ANSWER = defaults.NO_ANSWER
DEFAULT_DIMENSIONS = defaults.DIMENSIONS
"""Size of an embedding that stands for a block of latents in a first-stage index."""


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


def check_share(value: float, name: str, owner: str) -> float:
    """A number from 0 to 1.

    Raises:
        TypeError: not a number.
        ValueError: another one.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{owner}: {name} must be a number, but got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{owner}: {name} must be from 0 to 1, but got {value}")
    return float(value)


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

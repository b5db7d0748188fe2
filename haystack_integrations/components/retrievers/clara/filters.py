"""Haystack's filters as a filter of a store (`clara_model.store.filters`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_OPERATORS = {
    "==": "$eq",
    "!=": "$ne",
    ">": "$gt",
    ">=": "$gte",
    "<": "$lt",
    "<=": "$lte",
    "in": "$in",
    "not in": "$nin",
}
_CONDITIONS: dict[str, Callable[[list[Any]], dict[str, Any]]] = {
    "AND": lambda tests: {"$and": tests},
    "OR": lambda tests: {"$or": tests},
    "NOT": lambda tests: {"$not": {"$and": tests}},
}
_OF_DOCUMENTS = ("id", "content", "score", "embedding", "blob", "meta")


def where_of(filters: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The same filter for `Clara.search`.

    Args:
        filters: a comparison (``field``, ``operator``, ``value``) of metadata, or conditions joined by an ``operator``.
        owner: the class that errors name.

    Raises:
        ValueError: not a filter, an unknown operator, or a field that is no metadata.
    """
    if not isinstance(filters, Mapping) or "operator" not in filters:
        raise ValueError(f"{owner}: a filter is a dict with an 'operator', but got {filters!r}")
    operator = filters["operator"]
    if "field" not in filters:
        if operator not in _CONDITIONS or not isinstance(filters.get("conditions"), list):
            raise ValueError(f"{owner}: conditions are joined by {', '.join(_CONDITIONS)}, but got {filters!r}")
        return _CONDITIONS[operator]([where_of(one, owner) for one in filters["conditions"]])
    if operator not in _OPERATORS or "value" not in filters:
        raise ValueError(f"{owner}: a comparison has a value and one of {', '.join(_OPERATORS)}, but got {filters!r}")
    name = filters["field"]
    if name in _OF_DOCUMENTS:
        raise ValueError(f"{owner}: filters are on metadata such as 'meta.file', but got the field {name!r}")
    return {str(name).removeprefix("meta."): {_OPERATORS[operator]: filters["value"]}}

"""Haystack's filters as a filter of a store, with the meaning that `InMemoryDocumentStore` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from clara_model.components.filters import ordered

_ORDERS = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
_OPERATORS = ("==", "!=", *_ORDERS, "in", "not in")
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
        ValueError: not a filter, an unknown operator, a value that makes no sense, or a field that is no metadata.
    """
    from clara_model.store.filters import condition  # with torch, which making components does without

    made = _where(filters, owner)
    try:
        condition(made)
    except TypeError as error:
        raise ValueError(f"{owner}: {error}") from None
    return made


def _where(filters: Any, owner: str) -> dict[str, Any]:
    if not isinstance(filters, Mapping) or "operator" not in filters:
        raise ValueError(f"{owner}: a filter is a dict with an 'operator', but got {filters!r}")
    operator = filters["operator"]
    if "field" not in filters:
        if operator not in _CONDITIONS or not isinstance(filters.get("conditions"), list):
            raise ValueError(f"{owner}: conditions are joined by {', '.join(_CONDITIONS)}, but got {filters!r}")
        return _CONDITIONS[operator]([_where(one, owner) for one in filters["conditions"]])
    if operator not in _OPERATORS or "value" not in filters:
        raise ValueError(f"{owner}: a comparison has a value and one of {', '.join(_OPERATORS)}, but got {filters!r}")
    field, value = filters["field"], filters["value"]
    if field in _OF_DOCUMENTS:
        raise ValueError(f"{owner}: filters are on metadata such as 'meta.file', but got the field {field!r}")
    name = str(field).removeprefix("meta.")
    if name != "source_id":
        return _comparison(name, operator, value, owner)
    own = {name: None}  # a document without one is returned with its id
    return {
        "$or": [
            {"$and": [{"$not": own}, _comparison(name, operator, value, owner)]},
            {"$and": [own, _comparison("$document", operator, value, owner)]},
        ]
    }


def _comparison(name: str, operator: str, value: Any, owner: str) -> dict[str, Any]:
    if operator in _ORDERS:
        if value is None:
            return {"$or": []}
        if isinstance(value, str):
            date = _date(value)
            if date is None:
                raise ValueError(f"{owner}: {operator} compares numbers and dates in ISO 8601, but got {value!r}")
            value = date
        return ordered(name, _ORDERS[operator], value)
    if operator in ("in", "not in") and not isinstance(value, list):
        raise ValueError(f"{owner}: {operator!r} takes a list, but got {value!r}")
    values = value if operator in ("in", "not in") else [value]
    dates = [date for one in values if isinstance(one, str) and (date := _date(one)) is not None]
    test = {name: {"$in": [*values, *dates]}}
    return {"$not": test} if operator in ("!=", "not in") else test


def _date(text: str) -> datetime | None:
    """A text that is a whole date, perhaps with a time."""
    try:
        return datetime.fromisoformat(text) if text[4:5] == "-" else None
    except ValueError:
        return None

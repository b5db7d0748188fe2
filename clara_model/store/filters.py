"""Filters on documents' metadata as SQL over JSON, the one meaning that `Where` has in every store.

All entries of a filter must hold: ``name: value`` (equal; None where there is nothing), ``name: [values]`` (one of
them), ``name: {operator: value}`` with `OPERATORS`, ``"$and"`` or ``"$or"`` with a list of filters, ``"$not"`` with
one. What is compared has one type: a number is neither above nor below a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

SQL = tuple[str, list[Any]]
"""A test on the JSON of the column ``d.metadata``, and its values."""

_ORDERS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_VALUE = "json_extract(d.metadata, ?)"


def condition(where: Mapping[str, Any]) -> SQL:
    """The test of a filter; an empty one holds for all.

    Raises:
        TypeError: a name, an operator or a value that makes no sense.
    """
    if not isinstance(where, Mapping):
        raise TypeError(f"where must map names to values, got {where!r}")
    return _joined("AND", [_entry(name, wanted) for name, wanted in where.items()], "1")


def _entry(name: Any, wanted: Any) -> SQL:
    if name in ("$and", "$or"):
        if not isinstance(wanted, (list, tuple)):
            raise TypeError(f"where[{name!r}] must be a list of filters, got {wanted!r}")
        tests = [condition(one) for one in wanted]
        return _joined("AND", tests, "1") if name == "$and" else _joined("OR", tests, "0")
    if name == "$not":
        test, values = condition(wanted)
        return f"NOT {test}", values
    if not isinstance(name, str) or '"' in name:
        raise TypeError(f"where takes names that are strings without quotation marks, got {name!r}")
    if not isinstance(wanted, Mapping):
        return _in(name, wanted if _is_many(wanted) else [wanted])
    if not wanted or not set(wanted) <= set(OPERATORS):
        raise TypeError(f"where[{name!r}] takes {', '.join(OPERATORS)}, got {wanted!r}")
    return _joined("AND", [OPERATORS[one](name, value) for one, value in wanted.items()], "1")


def _is_many(wanted: Any) -> bool:
    return isinstance(wanted, (list, tuple, set, frozenset))


def _joined(word: str, tests: Sequence[SQL], empty: str) -> SQL:
    text = f" {word} ".join(test for test, _ in tests) or empty
    return f"({text})", [value for _, values in tests for value in values]


def _path(name: str) -> str:
    return f'$."{name}"'


def _plain(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, (str, int, float, bool)):
        raise TypeError(f"where[{name!r}] must be a string, a number, a list of them or None, got {value!r}")
    return value


def _is(name: str, value: Any) -> SQL:
    return f"{_VALUE} IS ?", [_path(name), _plain(name, value)]


def _in(name: str, values: Any) -> SQL:
    if not _is_many(values):
        raise TypeError(f"where[{name!r}] needs a list here, got {values!r}")
    return _joined("OR", [_is(name, value) for value in values], "0")


def _not(test: Callable[[str, Any], SQL]) -> Callable[[str, Any], SQL]:
    def negated(name: str, value: Any) -> SQL:
        text, values = test(name, value)
        return f"NOT ({text})", values

    return negated


def _order(sign: str) -> Callable[[str, Any], SQL]:
    def ordered(name: str, value: Any) -> SQL:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise TypeError(f"where[{name!r}] compares with a number or a string, got {value!r}")
        types = "('text')" if isinstance(value, str) else "('integer', 'real')"
        test = f"(coalesce(json_type(d.metadata, ?), '') IN {types} AND {_VALUE} {sign} ?)"
        return test, [_path(name), _path(name), value]

    return ordered


def _contains(name: str, value: Any) -> SQL:
    test = "EXISTS (SELECT 1 FROM json_each(d.metadata, ?) WHERE json_type(d.metadata, ?) = 'array' AND value IS ?)"
    return test, [_path(name), _path(name), _plain(name, value)]


OPERATORS: dict[str, Callable[[str, Any], SQL]] = {
    "$eq": _is,
    "$ne": _not(_is),
    **{name: _order(sign) for name, sign in _ORDERS.items()},
    "$in": _in,
    "$nin": _not(_in),
    "$contains": _contains,
}
"""``$contains`` is for metadata that are lists; the others are what they say."""

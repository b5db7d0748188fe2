"""Filters on documents' metadata as SQL over JSON, the one meaning that `Where` has in every store.

All entries of a filter must hold: ``name: value`` (equal; None where there is nothing), ``name: [values]`` (one of
them), ``name: {operator: value}`` with `OPERATORS`, ``"$and"`` or ``"$or"`` with a list of filters, ``"$not"`` with
one. What is compared has one type: a number is neither above nor below a text. A `datetime` is compared with texts that
are dates (ISO 8601). The name `DOCUMENT` is the document's id.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

SQL = tuple[str, list[Any]]
"""A test on the columns ``d.id`` and ``d.metadata`` (JSON), never NULL, and its values."""
DOCUMENT = "$document"
_DEEPEST, _JOINED = 30, 500
"""Tests in one another, and side by side without brackets, that SQLite takes."""
_LARGEST = 2**63 - 1
_TEXT, _NUMBER = "'text'", "'integer', 'real'"


def condition(where: Mapping[str, Any]) -> SQL:
    """The test of a filter; an empty one holds for all.

    Raises:
        TypeError: a name, an operator or a value that makes no sense.
    """
    try:
        test, values = _all(where)
        depth = deepest = 0
        for sign in test:
            depth += (sign == "(") - (sign == ")")
            deepest = max(deepest, depth)
    except RecursionError:
        deepest = 1000
    if deepest > _DEEPEST:
        raise TypeError(f"where is nested too deeply ({deepest} levels of at most {_DEEPEST}); say it in fewer")
    # what is damaged fits nothing, and does not end the search
    return (f"CASE WHEN json_valid(d.metadata) THEN {test} ELSE 0 END", values) if where else ("1", [])


def _all(where: Mapping[str, Any]) -> SQL:
    if not isinstance(where, Mapping):
        raise TypeError(f"where must map names to values, got {where!r}")
    return _joined("AND", [_entry(name, wanted) for name, wanted in where.items()], "1")


def _entry(name: Any, wanted: Any) -> SQL:
    if name in ("$and", "$or"):
        if not isinstance(wanted, (list, tuple)):
            raise TypeError(f"where[{name!r}] must be a list of filters, got {wanted!r}")
        tests = [_all(one) for one in wanted]
        return _joined("AND", tests, "1") if name == "$and" else _joined("OR", tests, "0")
    if name == "$not":
        return _negated(_all(wanted))
    if not isinstance(name, str) or '"' in name:
        raise TypeError(f"where takes names that are strings without quotation marks, got {name!r}")
    filters = isinstance(wanted, (list, tuple)) and all(isinstance(one, Mapping) for one in wanted)
    if name.startswith("$") and (name in OPERATORS or filters):
        raise TypeError(f"where has no operator {name!r} here; it takes $and, $or, $not and names, got {wanted!r}")
    if not isinstance(wanted, Mapping):
        return _in(name, wanted if _is_many(wanted) else [wanted])
    if not wanted or not set(wanted) <= set(OPERATORS):
        raise TypeError(f"where[{name!r}] takes {', '.join(OPERATORS)}, got {wanted!r}")
    return _joined("AND", [OPERATORS[one](name, value) for one, value in wanted.items()], "1")


def needed(where: Mapping[str, Any]) -> list[list[str]]:
    """Pieces of JSON: metadata that fit hold one of each list. For stores that look through texts faster than JSON."""
    pieces: list[list[str]] = []
    for name, wanted in where.items():
        if name == "$and":
            pieces += [one for entry in wanted for one in needed(entry)]
        if isinstance(wanted, Mapping) and len(wanted) == 1:
            wanted = [wanted["$eq"]] if "$eq" in wanted else wanted.get("$in", wanted)
        values = wanted if _is_many(wanted) else [wanted]
        if not name.startswith("$") and values and all(map(_spelled_alike, values)):
            pieces.append([f"{json.dumps(name)}: {json.dumps(value)}" for value in values])
    return pieces


def _spelled_alike(value: Any) -> bool:
    """Whether all that equals a value begins like it in JSON: 1962 and 1962.0, but not 1 and true."""
    return isinstance(value, str) or (type(value) is int and 1 < abs(value) < 10**15)


def _is_many(wanted: Any) -> bool:
    return isinstance(wanted, (list, tuple, set, frozenset))


def _joined(word: str, tests: Sequence[SQL], empty: str) -> SQL:
    if len(tests) == 1:
        return tests[0]
    while len(tests) > _JOINED:
        tests = [_joined(word, tests[start : start + _JOINED], empty) for start in range(0, len(tests), _JOINED)]
    text = f" {word} ".join(test for test, _ in tests)
    return (f"({text})" if tests else empty), [value for _, values in tests for value in values]


def _negated(test: SQL) -> SQL:
    text, values = test
    return (text[len("NOT ") :] if text.startswith("NOT ") else f"NOT {text}"), values


def _path(name: str) -> str:
    """Of a name as stores spell it: SQLite compares the spellings."""
    return f"$.{json.dumps(name)}"


def _value(name: str) -> SQL:
    return ("d.id", []) if name == DOCUMENT else ("json_extract(d.metadata, ?)", [_path(name)])


def _type(name: str) -> SQL:
    return ("'text'", []) if name == DOCUMENT else ("coalesce(json_type(d.metadata, ?), '')", [_path(name)])


def _typed(name: str, types: str, test: str, *values: Any) -> SQL:
    """A test of the value under a name (``{}`` in it), where that has one of some types."""
    (found, path), (kind, typed) = _value(name), _type(name)
    return f"({kind} IN ({types}) AND {test.format(found)})", [*typed, *path, *values]


_MEMBERS = (str, int, float, bool, type(None))


def _plain(name: str, value: Any, kinds: tuple[type, ...] = (*_MEMBERS, datetime)) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, float) and math.isnan(value)):
        *others, last = [_KINDS[kind] for kind in kinds if kind in _KINDS]
        raise TypeError(f"where[{name!r}] must be {', '.join(others)}{' or ' * bool(others)}{last}, got {value!r}")
    return value


_KINDS = {str: "a string", int: "a number", datetime: "a date", type(None): "None"}


def _is(name: str, value: Any) -> SQL:
    if name == DOCUMENT and (not isinstance(value, (str, datetime)) or _spelled(value)):
        return "0", []
    if isinstance(value, list):
        spelled = json.dumps([_plain(name, one, _MEMBERS) for one in value], separators=(",", ":"))
        return "coalesce(d.metadata -> ? = ?, 0)", [_path(name), spelled]
    if isinstance(_plain(name, value), datetime):
        return _dated(name, "=", value)
    if _spelled(value):  # what SQLite cannot hold is compared as JSON
        return "coalesce(d.metadata -> ? = ?, 0)", [_path(name), json.dumps(value)]
    if isinstance(value, str) and value[:1] in ("[", "{"):  # a list is no text
        return _typed(name, _TEXT, "{} IS ?", value)
    found, path = _value(name)
    return f"({found} IS ?)", [*path, value]


def _spelled(value: Any) -> bool:
    """Whether SQLite would take it for another value."""
    if isinstance(value, str):
        return "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value)
    return isinstance(value, int) and not -_LARGEST <= value <= _LARGEST


def _in(name: str, values: Any) -> SQL:
    if not _is_many(values):
        raise TypeError(f"where[{name!r}] needs a list here, got {values!r}")
    many, tests = [], []
    for value in values:
        plain = isinstance(value, (str, int)) and not _spelled(value) and str(value)[:1] not in ("[", "{")
        many.append(value) if plain else tests.append(_is(name, value))
    if len(many) < 3:
        tests += [_is(name, value) for value in many]
    else:
        found, path = _value(name)
        among = f"coalesce({found} IN (SELECT value FROM json_each(?)), 0)"
        tests.append((among, [*path, json.dumps(many)]))
    return _joined("OR", tests, "0")


def _not(test: Callable[[str, Any], SQL]) -> Callable[[str, Any], SQL]:
    return lambda name, value: _negated(test(name, value))


def _order(sign: str) -> Callable[[str, Any], SQL]:
    def ordered(name: str, value: Any) -> SQL:
        if isinstance(value, bool):
            raise TypeError(f"where[{name!r}] compares with a number, a string or a date, got {value!r}")
        if isinstance(_plain(name, value, (str, int, float, datetime)), datetime):
            return _dated(name, sign, value)
        if isinstance(value, str):
            return _typed(name, _TEXT, f"{{}} {sign} ?", value.encode("utf-8", "replace").decode())
        if _spelled(value):
            value = math.copysign(math.inf, value) if abs(value) > 10**308 else float(value)
        return _typed(name, _NUMBER, f"{{}} {sign} ?", value)

    return ordered


def _dated(name: str, sign: str, value: datetime) -> SQL:
    return _typed(name, _TEXT, f"coalesce(date_order({{}}, ?) {sign} 0, 0)", value.isoformat())


def date_order(text: Any, other: str) -> int | None:
    """Whether a date lies before another (-1), with it or behind it; None where it is no text of a date (ISO 8601).

    One without a zone counts as in the other's.
    """
    try:
        one, two = datetime.fromisoformat(text), datetime.fromisoformat(other)
    except (ValueError, TypeError):
        return None
    if (one.tzinfo is None) != (two.tzinfo is None):
        one, two = one.replace(tzinfo=None), two.replace(tzinfo=None)
    return (one > two) - (one < two)


def add_functions(connection: sqlite3.Connection) -> None:
    """What the tests call beside SQLite's own functions."""
    connection.create_function("date_order", 2, date_order, deterministic=True)
    connection.create_function("folded", 1, lambda text: str(text).casefold(), deterministic=True)


def _contains(name: str, value: Any) -> SQL:
    if isinstance(_plain(name, value), datetime):
        value = value.isoformat()
    if name == DOCUMENT:
        return ("(instr(d.id, ?) > 0)", [value]) if isinstance(value, str) and not _spelled(value) else ("0", [])
    if _spelled(value):
        member, sought = "d.metadata -> fullkey = ?", json.dumps(value)
    else:
        member, sought = "atom IS ? AND type NOT IN ('array', 'object')", value
    kind, typed = _type(name)
    test = f"({kind} = 'array' AND EXISTS (SELECT 1 FROM json_each(d.metadata, ?) WHERE {member}))"
    listed = test, [*typed, _path(name), sought]
    if not isinstance(value, str) or _spelled(value):
        return listed
    return _joined("OR", [listed, _typed(name, _TEXT, "instr({}, ?) > 0", value)], "0")


def _holds(name: str, value: Any) -> SQL:
    sought = _plain(name, value, (str,)).casefold().encode("utf-8", "replace").decode()
    return _typed(name, _TEXT, "instr(folded({}), ?) > 0", sought)


OPERATORS: dict[str, Callable[[str, Any], SQL]] = {
    "$eq": _is,
    "$ne": _not(_is),
    "$gt": _order(">"),
    "$gte": _order(">="),
    "$lt": _order("<"),
    "$lte": _order("<="),
    "$in": _in,
    "$nin": _not(_in),
    "$contains": _contains,
    "$holds": _holds,
}
"""``$contains``: a list has the value, or a text holds it; ``$holds``: a text holds it, in capitals or not."""

"""What reading a file gives: documents, and the rules that rows of any format share. Leaves out the formats."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from clara_model.errors import ClaraError

TEXT_KEYS = ("text", "contents", "docs")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Unreadable(ClaraError):
    """A file that cannot be read as what its name says; of a folder, it is left out."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document as read: a whole file, or one text of a row."""

    text: str
    file: str
    """The file as it was named or found, or `standard input`."""
    line: int | None = None
    """Line of a JSONL file or row of a table, from 1; None for a whole file."""
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Of the row, what was asked for and is there."""


def decoded(data: bytes, name: str, line: int = 1) -> str:
    """UTF-8 with or without a byte order mark; line ends as newlines.

    Args:
        data: all or a part of a file.
        name: of the file.
        line: in the file at which ``data`` begins.

    Raises:
        Unreadable: another encoding, with the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line += data[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")
        raise Unreadable(
            f"{name}:{line} is not UTF-8 text (byte 0x{data[error.start]:02x}); convert the file to UTF-8 first."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def of_json_line(line: str, name: str, number: int, key: str | None, keep: Sequence[str] = ()) -> Iterator[Document]:
    """The documents of one JSON line: `{"text"|"contents"|"docs": a string or a list of strings}`, or under ``key``."""
    place = f"{name}:{number}"
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ClaraError(f"{place} is not valid JSON: {getattr(error, 'msg', 'nested too deeply')}.") from None
    known = key_of(record, key) if isinstance(record, dict) else None
    if known is None:
        raise ClaraError(f"{place} must be a JSON object with {_wanted(key)}.")
    return _of_row(record, known, name, number, keep)


def _of_row(row: Mapping[str, Any], column: str, name: str, number: int, keep: Sequence[str]) -> Iterator[Document]:
    """The texts of a row, each with the row's metadata."""
    texts = texts_of(row[column], column, f"{name}:{number}")
    metadata = {one: _simple(row[one], one, f"{name}:{number}") for one in keep if row.get(one) is not None}
    return (Document(text=text, file=name, line=number, metadata=metadata) for text in texts)


def _simple(value: Any, key: str, place: str) -> str | int | float | bool:
    """A value that a search can compare.

    Raises:
        ClaraError: a list, an object, or a number that is none.
    """
    if not isinstance(value, (str, int, float, bool)) or value != value or value in (float("inf"), -float("inf")):
        raise ClaraError(f'{place}: "{key}" must be a string, a number, true or false to be kept as metadata.')
    return without_surrogates(value) if isinstance(value, str) else value


def key_of(names: Iterable[str], key: str | None) -> str | None:
    """The name that texts stand under, if it is there."""
    return next((one for one in ((key,) if key else TEXT_KEYS) if one in names), None)


def column_of(names: Iterable[str], key: str | None, place: str) -> str:
    """The column that texts stand in.

    Raises:
        Unreadable: it is not there; says which columns are.
    """
    names = list(names)
    found = key_of(names, key)
    if found is None:
        raise Unreadable(
            f"{place} has the columns {', '.join(names)} and must have {_wanted(key)}; name it: --text-key"
        )
    return found


def _wanted(key: str | None) -> str:
    return f'the key "{key}"' if key else "one of the keys " + ", ".join(f'"{one}"' for one in TEXT_KEYS)


def texts_of(value: Any, key: str, place: str) -> list[str]:
    """A text or a list of them, without lone surrogates.

    Raises:
        ClaraError: something else.
    """
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ClaraError(f'{place}: "{key}" must be a string or a list of strings.')
    return [without_surrogates(text) for text in texts]


def without_surrogates(text: str) -> str:
    """Halves of characters as U+FFFD."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def of_rows(rows: Iterable[Mapping[str, Any]], column: str, name: str, keep: Sequence[str] = ()) -> Iterator[Document]:
    """The documents of a table's rows, row by row; empty cells are left out."""
    for number, row in enumerate(rows, start=1):
        if row[column] is not None:
            yield from _of_row(row, column, name, number, keep)


@contextmanager
def needing(package: str, what: str) -> Iterator[None]:
    """Imports inside the block are those of a package that ``what`` needs.

    Raises:
        Unreadable: it is not installed; says how to get it.
    """
    try:
        yield
    except ImportError as error:
        raise Unreadable(
            f"{what} needs the package {package}; install it with: pip install 'clara-integrations[documents]'"
        ) from error

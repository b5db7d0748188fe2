"""Rows of JSON lines, Parquet tables and data sets of the hub: a document each, or several, with metadata.

``hf://datasets/OWNER/NAME[@REVISION][/FILES]`` is a stream of the ``datasets`` package.

A bad row is left out and named, and the others are read; neighbours with one reason are named together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from clara_model.documents.document import (
    Document,
    Metadata,
    Unread,
    Unreadable,
    needing,
    not_utf8,
    reading,
    until_error,
    without_surrogates,
)
from clara_model.errors import ClaraError

T = TypeVar("T")
PREFIX = "hf://datasets/"
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@(refs/(?:convert/\w+|pr/\d+)|[^@/]+))?(?:/(.+?))?/?$")
TEXT_KEYS = ("text", "contents", "docs")
_ROWS_AT_ONCE = 256


def parquet(file: Path, key: str | None, keep: Sequence[str] = ()) -> Iterator[Document | Unread]:
    """The texts of a table's column, row by row, with other columns as metadata; the file is never whole in memory."""
    with needing("pyarrow", str(file)):
        from pyarrow.parquet import ParquetFile

    def rows() -> Iterator[dict[str, Any]]:
        with reading(str(file), "Parquet"):
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=list({column, *keep} & set(names))):
                yield from batch.to_pylist()

    with reading(str(file), "Parquet"):
        table = ParquetFile(file)
    with table:
        names = table.schema_arrow.names
        column = column_of(names, key, str(file))
        yield from of_rows(rows(), column, str(file), keep)


def is_hub_name(name: str) -> bool:
    """Whether a name is one of the hub's."""
    return name.startswith("hf://")


def read_data_set(name: str, key: str | None = None, keep: Sequence[str] = ()) -> Iterator[Document | Unread]:
    """The texts of all splits of a data set, row by row; nothing is downloaded whole.

    A split whose stream breaks is named, and the next is read.

    Args:
        name: ``REVISION`` may be ``refs/convert/parquet`` (or ``~parquet``) or ``refs/pr/1``; ``FILES`` leaves only
            these, such as ``data/train-*.parquet``.
        key: the column that holds the text (default: text, contents or docs).
        keep: columns that become metadata.

    Raises:
        Unreadable: not such a name, or the package ``datasets`` is missing.
    """
    owner_and_name, revision, files = _parts(name)
    with needing("datasets", name):
        from datasets import load_dataset
    place = PREFIX + owner_and_name

    def read() -> Iterator[Document | Unread]:
        with reading(place, "a data set"):
            splits = load_dataset(owner_and_name, revision=revision, data_files=files, streaming=True)
        for split, rows in splits.items():
            yield from until_error(_stream_rows(rows, f"{place}/{split}", key, keep), f"{place}/{split}")

    yield from until_error(read(), place)


def _parts(name: str) -> tuple[str, str | None, str | None]:
    parts = _NAME.match(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if parts is None:
        raise Unreadable(f"{name} is not a data set of the hub; write {PREFIX}OWNER/NAME, or with a file: .../FILE")
    owner_and_name, revision, files = parts.groups()
    return owner_and_name, unquote(re.sub("^~", "refs/convert/", revision)) if revision else None, files


def _stream_rows(
    rows: Iterable[dict[str, Any]], place: str, key: str | None, keep: Sequence[str]
) -> Iterator[Document | Unread]:
    def stream() -> Iterator[dict[str, Any]]:
        with reading(place, "rows"):
            yield from rows

    read = stream()
    first = next(read, None)
    if first is not None:
        yield from of_rows(chain([first], read), column_of(first, key, place), place, keep)


class _BadRow(Exception):
    """Why a row is left out, without its place."""


def of_json_lines(
    lines: Iterable[bytes], name: str, key: str | None = None, keep: Sequence[str] = ()
) -> Iterator[Document | Unread]:
    """The documents of JSON lines: `{"text"|"contents"|"docs": a string or a list of strings}`, or under ``key``.

    A line ends in a newline, a carriage return or both. Blank ones are counted and no more.
    """
    split = (part for line in lines for part in line.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"))
    return _of_rows(split, lambda line: _of_json(line, key, keep), name)


def of_rows(
    rows: Iterable[Mapping[str, Any]], column: str, name: str, keep: Sequence[str] = ()
) -> Iterator[Document | Unread]:
    """The documents of a table's rows."""
    return _of_rows(rows, lambda row: _of_row(row, column, keep), name)


def _of_rows(
    rows: Iterable[T], read: Callable[[T], tuple[list[str], Metadata]], name: str
) -> Iterator[Document | Unread]:
    """What is read of each row; neighbours that are left out for one reason are named together."""
    reason, first, number = "", 1, 0
    broken: ClaraError | OSError | None = None
    try:
        for number, row in enumerate(rows, start=1):
            bad = ""
            try:
                texts, metadata = read(row)
            except _BadRow as error:
                texts, metadata, bad = [], {}, str(error)
            if bad != reason:
                if reason:
                    yield _left_out(name, reason, range(first, number))
                reason, first = bad, number
            for text in texts:
                yield Document(text=text, file=name, line=number, metadata=metadata)
    except (ClaraError, OSError) as error:
        broken = error
    if reason:
        yield _left_out(name, reason, range(first, number + 1))
    if broken is not None:
        raise broken


def _left_out(name: str, reason: str, lines: range) -> Unread:
    more = f" to {lines[-1]}" if len(lines) > 1 else ""
    return Unread(file=name, reason=f"{name}:{lines[0]}{more}: {reason}.", lines=lines)


def _of_json(line: bytes, key: str | None, keep: Sequence[str]) -> tuple[list[str], Metadata]:
    try:
        text = line.decode("utf-8-sig")
        if not text.strip():
            return [], {}
        row = json.loads(text)
    except UnicodeDecodeError as error:
        raise _BadRow(f"{not_utf8(error)}; convert the file to UTF-8 first") from None
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        raise _BadRow(f"not valid JSON: {'nested too deeply' if deep else getattr(error, 'msg', error)}") from None
    named = row if isinstance(row, dict) else {}
    column = key_of([name for name in named if named[name]], key) or key_of(named, key)  # one with a text comes first
    if column is None:
        raise _BadRow(f"must be a JSON object with {_wanted(key)}")
    return _of_row(row, column, keep)


def _of_row(row: Mapping[str, Any], column: str, keep: Sequence[str]) -> tuple[list[str], Metadata]:
    """Its texts without lone surrogates, and its metadata."""
    texts = row[column] if isinstance(row[column], list) else [row[column]]
    if not all(isinstance(text, str) for text in texts):
        raise _BadRow(f'"{column}" must be a string or a list of strings')
    found = {name: _metadata(row[name], name) for name in keep if name in row}
    metadata = {name: value for name, value in found.items() if value is not None}
    return [without_surrogates(text) for text in texts], metadata


def _metadata(value: Any, name: str) -> Any:
    """A value that a search can compare, or a list of them; None where there is none."""
    if isinstance(value, list):
        return [_metadata(one, name) for one in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value) if value.as_tuple().exponent else int(value)
    if value is None or value != value:  # how tables write that nothing is there
        return None
    if not isinstance(value, (str, int, float, bool)) or value in (float("inf"), -float("inf")):
        raise _BadRow(f'"{name}" must be a string, a number, true or false, or a list of them, to be kept as metadata')
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

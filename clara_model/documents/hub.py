"""Data sets of the hub, ``hf://datasets/OWNER/NAME[@REVISION][/FILES]``: streams of the ``datasets`` package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any
from urllib.parse import unquote

from clara_model.documents.document import Document, Unread, Unreadable, needing, reading, until_error
from clara_model.documents.rows import column_of, of_rows

PREFIX = "hf://datasets/"
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@(refs/(?:convert/\w+|pr/\d+)|[^@/]+))?(?:/(.+?))?/?$")


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
        import datasets  # noqa: F401
    place = PREFIX + owner_and_name
    yield from until_error(_splits(place, owner_and_name, revision, files, key, keep), place)


def _parts(name: str) -> tuple[str, str | None, str | None]:
    """Owner and name, revision and files."""
    parts = _NAME.match(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if parts is None:
        raise Unreadable(f"{name} is not a data set of the hub; write {PREFIX}OWNER/NAME, or with a file: .../FILE")
    owner_and_name, revision, files = parts.groups()
    return owner_and_name, unquote(re.sub("^~", "refs/convert/", revision)) if revision else None, files


def _splits(
    place: str, name: str, revision: str | None, files: str | None, key: str | None, keep: Sequence[str]
) -> Iterator[Document | Unread]:
    from datasets import load_dataset

    with reading(place, "a data set"):
        splits = load_dataset(name, revision=revision, data_files=files, streaming=True)
    for split, rows in splits.items():
        yield from until_error(_rows(rows, f"{place}/{split}", key, keep), f"{place}/{split}")


def _rows(
    rows: Iterable[dict[str, Any]], place: str, key: str | None, keep: Sequence[str]
) -> Iterator[Document | Unread]:
    def stream() -> Iterator[dict[str, Any]]:
        with reading(place, "rows"):
            yield from rows

    read = stream()
    first = next(read, None)
    if first is not None:
        yield from of_rows(chain([first], read), column_of(first, key, place), place, keep)

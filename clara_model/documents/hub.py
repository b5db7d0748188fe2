"""Data sets of the hub, ``hf://datasets/OWNER/NAME[@REVISION][/FILES]``: streams of the ``datasets`` package."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from clara_model.documents.document import Document, Unread, Unreadable, column_of, needing, of_rows

PREFIX = "hf://datasets/"
_NAME = re.compile(r"^([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?$")


def is_hub_name(name: str) -> bool:
    """Whether a name is one of the hub's."""
    return name.startswith("hf://")


def read_data_set(name: str, key: str | None = None, keep: Sequence[str] = ()) -> Iterator[Document | Unread]:
    """The texts of all splits of a data set, row by row; nothing is downloaded whole.

    Args:
        name: ``FILES`` leaves only these, such as ``data/train-*.parquet``.
        key: the column that holds the text (default: text, contents or docs).
        keep: columns that become metadata.

    Raises:
        Unreadable: not such a name, a data set that cannot be read, or one without that column.
    """
    parts = _NAME.match(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if parts is None:
        raise Unreadable(f"{name} is not a data set of the hub; write {PREFIX}OWNER/NAME, or with a file: .../FILE")
    with needing("datasets", name):
        from datasets import load_dataset

    owner_and_name, revision, files = parts.groups()
    try:
        splits = load_dataset(owner_and_name, revision=revision, data_files=files, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise Unreadable(f"{name} cannot be read: {' '.join(str(error).split())[:300]}") from error
    for split, rows in splits.items():
        place = f"{PREFIX}{owner_and_name}/{split}"
        first = next(iter(rows), None)
        if first is not None:
            yield from of_rows(rows, column_of(first, key, place), place, keep)

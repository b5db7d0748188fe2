"""Which file is read by which reader, by the end of its name.

Readers: text here, `html`, `docx`, `pdf`, `rows` (JSON lines, Parquet).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clara_model.documents.document import Document, Unread, Unreadable, decoded
from clara_model.documents.docx import docx
from clara_model.documents.html import html
from clara_model.documents.pdf import pdf
from clara_model.documents.rows import of_json_lines, parquet

_TEXTS: dict[str, Callable[[bytes, str], str]] = {
    ".txt": decoded,
    ".md": decoded,
    ".html": html,
    ".htm": html,
    ".docx": docx,
}
"""Files that are a text each."""
_PDF, _JSON_LINES, _ZIPPED, _PARQUET = ".pdf", ".jsonl", ".jsonl.gz", ".parquet"
SUFFIXES = (*_TEXTS, _PDF, _JSON_LINES, _ZIPPED, _PARQUET)


def suffix_of(file: Path) -> str:
    """The end of its name that says what it is, in small letters."""
    return _ZIPPED if file.name.lower().endswith(_ZIPPED) else file.suffix.lower()


def read_file(file: Path, text_key: str | None = None, keep: Sequence[str] = ()) -> Iterator[Document | Unread]:
    """What a file holds, blank texts included.

    Args:
        file: its name ends in one of `SUFFIXES`.
        text_key: key or column that holds the text of a row (default: text, contents or docs).
        keep: keys or columns of a row that become its documents' metadata.

    Raises:
        Unreadable: it is not what its name says.
        OSError: it cannot be opened.
    """
    name, suffix = str(file), suffix_of(file)
    if suffix == _PARQUET:
        yield from parquet(file, text_key, keep)
    elif suffix in (_JSON_LINES, _ZIPPED):
        yield from of_json_lines(_lines(file, zipped=suffix == _ZIPPED), name, text_key, keep)
    elif suffix == _PDF:
        yield from pdf(file.read_bytes(), name)
    else:
        yield Document(text=_TEXTS[suffix](file.read_bytes(), name), file=name)


def _lines(file: Path, *, zipped: bool) -> Iterator[bytes]:
    """The lines of a file, which is never whole in memory."""
    try:
        with gzip.open(file) if zipped else file.open("rb") as lines:
            yield from lines
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Unreadable(f"{file} cannot be unzipped: {error}") from error

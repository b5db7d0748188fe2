"""From files to passages: read files, folders, data sets and standard input; long texts are split (`windows`).

A *passage* is what one set of memory tokens stands for: an exact stretch of its document that fits the model's
document length. It knows its file and its number, so an answer can be cited. Left out: what each file type is
(`documents.formats`) and overlapping windows (a sentence is never in two passages).
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clara_model.documents import formats
from clara_model.documents.document import Document, Unread, Unreadable, decoded, of_json_lines, until_error
from clara_model.documents.hub import is_hub_name, read_data_set
from clara_model.errors import ClaraError
from clara_model.windows import split_text

logger = logging.getLogger(__name__)

STDIN = "-"
TEXTS: dict[str, Callable[[bytes, str], str]] = {
    ".txt": decoded,
    ".md": decoded,
    ".html": formats.html,
    ".htm": formats.html,
    ".pdf": formats.pdf,
    ".docx": formats.docx,
}
"""Files that are one document each."""
JSON_LINES, ZIPPED, PARQUET = ".jsonl", ".jsonl.gz", ".parquet"
SUFFIXES = (*TEXTS, JSON_LINES, ZIPPED, PARQUET)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A stretch of a document that fits the model's document length."""

    text: str
    file: str
    number: int
    """Counts the passages of one file, from 1."""
    line: int | None = None

    @property
    def citation(self) -> str:
        """Where the passage stands, e.g. `notes.txt, passage 3` or `facts.jsonl:7, passage 9`."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}, passage {self.number}"


def read_documents(
    names: Sequence[str], *, text_key: str | None = None, stdin: BinaryIO | None = None
) -> list[Document]:
    """Read the documents of files, folders and data sets of the hub; `-` is standard input.

    Folders are read recursively: their files of the types in `SUFFIXES` in the order of their names, without hidden and
    empty ones. A file that is named twice is read once. Texts must be UTF-8; lone surrogates become U+FFFD. What cannot
    be read is left out, each with a warning.

    Args:
        names: files, folders, ``hf://datasets/..`` or `-`.
        text_key: key or column that holds the text of a row (default: text, contents or docs).
        stdin: the byte stream that `-` reads (default: the process's standard input).

    Returns:
        At least one document, none of them blank.

    Raises:
        FileNotFoundError: a name that does not exist.
        ClaraError: a named file without text or of another type, or nothing that can be read.
    """
    documents: list[Document] = []
    unread: list[Unread] = []
    seen: set[Path] = set()
    for name in names:
        if not name.strip():
            raise ClaraError(f"{name!r} names no file or folder; use . for the current folder.")
        path = Path(name)
        if name == STDIN:
            data = (stdin if stdin is not None else sys.stdin.buffer).read()
            found = {"standard input": _standard_input(data, text_key)}
        elif is_hub_name(name):
            found = {name: read_data_set(name, text_key)}
        else:
            files = [file for file in _files(path) if file.resolve() not in seen]
            seen.update(file.resolve() for file in files)
            found = {str(file): _documents(file, text_key) for file in files}
        for place, items in found.items():
            read = list(_with_text(until_error(items, place), place, empty_ok=path.is_dir()))
            documents += [one for one in read if isinstance(one, Document)]
            unread += [one for one in read if isinstance(one, Unread)]
    if not documents and len(unread) == 1:
        raise Unreadable(unread[0].reason)
    for one in unread:
        logger.warning("left out: %s", one.reason)
    if not documents:
        what = "no file can be read" if unread else "every file is empty"
        raise ClaraError(f"{', '.join(names)}: {what}." if names else "No documents were named.")
    return documents


def sources_of(names: Sequence[str]) -> list[Path | str]:
    """The files that names of files and folders stand for, each once, in order; names of data sets as they are.

    Raises:
        FileNotFoundError: a name that does not exist.
        ClaraError: a file of another type, or a folder without any.
    """
    sources: dict[Path | str, None] = {}
    for name in names:
        found = [name] if is_hub_name(name) else [file.resolve() for file in _files(Path(name))]
        sources.update(dict.fromkeys(found))
    return list(sources)


def read_source(
    source: Path | str, text_key: str | None = None, keep: Sequence[str] = ()
) -> Iterator[Document | Unread]:
    """The documents of one file or data set, as for `read_documents`, and what of it cannot be read.

    Args:
        source: as `sources_of` gives it.
        text_key: see `read_documents`.
        keep: keys or columns of a row that become its documents' metadata, where it has them.
    """
    found = read_data_set(source, text_key, keep) if isinstance(source, str) else _documents(source, text_key, keep)
    return _with_text(until_error(found, str(source)), str(source), empty_ok=True)


def split_documents(
    documents: Iterable[Document], count_tokens: Callable[[str], int], max_tokens: int
) -> list[Passage]:
    """Split documents into passages of at most `max_tokens` tokens each, numbered within their file.

    Args:
        documents: as `read_documents` returns them.
        count_tokens: the number of tokens of a text, without special tokens (`Clara.count_tokens`).
        max_tokens: the most tokens one passage may have (`Clara.doc_max_length`).
    """
    passages: list[Passage] = []
    numbers: dict[str, int] = {}
    for document in documents:
        for text in split_text(document.text, count_tokens, max_tokens):
            numbers[document.file] = number = numbers.get(document.file, 0) + 1
            passages.append(Passage(text=text, file=document.file, number=number, line=document.line))
    return passages


def _files(path: Path) -> list[Path]:
    """The files a name stands for: itself, or those of a folder in order."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if _suffix(file) in SUFFIXES and file.is_file())
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not found:
            raise ClaraError(f"{path} holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file.")
        return found
    if not path.is_file():  # a pipe or a device may never end
        raise ClaraError(f"{path} is no regular file; read a pipe as - (standard input).")
    if _suffix(path) not in SUFFIXES:
        raise ClaraError(f"{path} is not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file.")
    return [path]


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ZIPPED if name.endswith(ZIPPED) else path.suffix.lower()


def _documents(file: Path, text_key: str | None, keep: Sequence[str] = ()) -> Iterator[Document | Unread]:
    """What a file holds, blank texts included."""
    name, suffix = str(file), _suffix(file)
    if suffix == PARQUET:
        yield from formats.parquet(file, text_key, keep)
    elif suffix in (JSON_LINES, ZIPPED):
        yield from of_json_lines(_lines(file, zipped=suffix == ZIPPED), name, text_key, keep)
    else:
        yield Document(text=TEXTS[suffix](file.read_bytes(), name), file=name)


def _lines(file: Path, *, zipped: bool) -> Iterator[bytes]:
    """The lines of a file, which is never whole in memory."""
    try:
        with gzip.open(file) if zipped else file.open("rb") as lines:
            yield from lines
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Unreadable(f"{file} cannot be unzipped: {error}") from error


def _standard_input(data: bytes, text_key: str | None) -> Iterator[Document | Unread]:
    name = "standard input"
    if _looks_like_json_lines(data):
        yield from of_json_lines(io.BytesIO(data), name, text_key)
    else:
        yield Document(text=decoded(data, name), file=name)


def _with_text(items: Iterable[Document | Unread], name: str, *, empty_ok: bool) -> Iterator[Document | Unread]:
    """Those that are not blank; a warning or an error where there are none."""
    none = True
    for item in items:
        if isinstance(item, Unread) or item.text.strip():
            none = False
            yield item
    if none and not empty_ok:
        raise ClaraError(f"{name} is empty: it holds no text.")
    if none:
        logger.warning("%s is empty and left out.", name)


def _looks_like_json_lines(data: bytes) -> bool:
    """Whether the first line with text is a JSON object (standard input has no file name that would tell)."""
    first = data.lstrip().split(b"\n", 1)[0]
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False

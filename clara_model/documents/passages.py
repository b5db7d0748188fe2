"""From files to passages: read files, folders, data sets and standard input; long texts are split (`windows`).

A *passage* is what one set of memory tokens stands for: an exact stretch of its document that fits the model's document
length. It knows its file and its number, so an answer can be cited.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import re
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clara_model.documents.document import Document, Unread, Unreadable, decoded, until_error
from clara_model.documents.docx import docx
from clara_model.documents.html import html
from clara_model.documents.pdf import pdf
from clara_model.documents.rows import is_hub_name, of_json_lines, parquet, read_data_set
from clara_model.errors import ClaraError
from clara_model.windows import SplitText, Window, split_text

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

logger = logging.getLogger(__name__)

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
STDIN = "-"
_LOCK = "~$"
"""Begins the name of the file that Word keeps beside a document that is open."""
_ODD_BYTE = re.compile("[\ud800-\udfff]")


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
    names: Sequence[str], *, text_key: str | None = None, unread: list[Unread] | None = None
) -> list[Document]:
    """Read the documents of files, folders and data sets of the hub; `-` is standard input.

    Folders are read recursively: their files of the types in `SUFFIXES` in the order of their names, without hidden and
    empty ones. A file that is named twice is read once. Texts must be UTF-8; lone surrogates become U+FFFD. What cannot
    be read is left out, each with a warning.

    Args:
        names: files, folders, ``hf://datasets/..`` or `-`.
        text_key: key or column that holds the text of a row (default: text, contents or docs).
        unread: where to put what is left out.

    Returns:
        At least one document, none of them blank.

    Raises:
        FileNotFoundError: a name that does not exist.
        ClaraError: nothing that can be read.
    """
    sources, left_out = sources_of(names)
    documents: list[Document] = []
    empty: list[str] = []
    for source in sources:
        items = list(read_source(source, text_key))
        documents += [item for item in items if isinstance(item, Document)]
        left_out += [item for item in items if isinstance(item, Unread)]
        empty += [] if items else [plain_name(str(source))]
    if not documents and len(left_out) == 1:
        raise Unreadable(left_out[0].reason)
    for one in left_out:
        logger.warning("left out: %s", one.reason)
    if not documents:
        several = len(names) > 1 or Path(names[0]).is_dir()
        none = ": every file is empty" if several else " is empty: it holds no text"
        what = ": no file can be read" if left_out else none
        raise ClaraError(f"{', '.join(names)}{what}.")
    for name in empty:
        logger.warning("%s is empty and left out.", name)
    if unread is not None:
        unread += left_out
    return documents


def sources_of(names: Sequence[str], *, in_full: bool = False) -> tuple[list[Path | str], list[Unread]]:
    """What names stand for: files, each once, in order, and names of data sets and `-` as they are; and what cannot be.

    A file is named by the path at which it was found, whatever links lead to it. Links to folders are not followed.

    Args:
        names: see `read_documents`.
        in_full: name files by their whole path, without standard input.

    Raises:
        FileNotFoundError: a name that does not exist.
        ClaraError: they stand for nothing that can be read.
    """
    sources: dict[Path | str, Path | str] = {}
    unread: list[Unread] = []
    why: list[str] = []
    for name in names:
        if not name.strip():
            raise ClaraError(f"{name!r} names no file or folder; use . for the current folder.")
        if is_hub_name(name) or (name == STDIN and not in_full):
            sources[name] = name
            continue
        files, bad = _files(_in_full(Path(name)) if in_full else Path(name))
        for file in files:
            sources.setdefault(_in_full(file), file)
        unread += bad
        why += [one.reason for one in bad[-1:]]
    if not sources:
        raise Unreadable("; ".join(why) or "No documents were named.")
    return list(sources.values()), unread


def read_source(
    source: Path | str, text_key: str | None = None, keep: Sequence[str] = ()
) -> Iterator[Document | Unread]:
    """The documents of one of `sources_of`, as for `read_documents`, and what of it cannot be read.

    ``keep`` are keys or columns of a row that become its documents' metadata, where it has them.
    """
    name = str(source)
    if isinstance(source, Path):
        found = _read_file(source, text_key, keep)
    elif source == STDIN:
        name, found = "standard input", _standard_input(text_key)
    else:
        found = read_data_set(source, text_key, keep)
    plain = plain_name(name)
    for item in until_error(found, name):
        if isinstance(item, Unread):
            item = replace(item, reason=plain_name(item.reason))
        elif not item.text.strip():
            continue
        yield item if plain == name else replace(item, file=plain)


def split_documents(
    documents: Iterable[Document], count_tokens: Callable[[str], int], max_tokens: int
) -> list[Passage]:
    """Split documents into passages of at most `max_tokens` tokens each, numbered within their file.

    `Clara.count_tokens` and `Clara.doc_max_length` say how many a text has, and a passage may have.
    """
    return list(_numbered((one, split_text(one.text, count_tokens, max_tokens)) for one in documents))


def passages_by_key(documents: Sequence[Document], clara: Clara) -> dict[str, Passage]:
    """The passages that a model reads of documents, by content key, split and hashed once; of equal ones the first."""
    split = clara.shared.splitter.split([document.text.strip() for document in documents])
    keys = (key for one in split for key, _ in one.parts)
    parts = ((document, [text for _, text in one.parts]) for document, one in zip(documents, split, strict=True))
    found: dict[str, Passage] = {}
    for key, passage in zip(keys, _numbered(parts), strict=True):
        found.setdefault(key, passage)
    clara.shared.splitter.known = {one.text: SplitText(one.text, key, (Window(key),)) for key, one in found.items()}
    return found


def _numbered(parts: Iterable[tuple[Document, Iterable[str]]]) -> Iterator[Passage]:
    numbers = Counter[str]()
    for document, texts in parts:
        for text in texts:
            numbers[document.file] += 1
            yield Passage(text=text, file=document.file, number=numbers[document.file], line=document.line)


def suffix_of(file: Path) -> str:
    """The end of its name that says what it is, in small letters."""
    return _ZIPPED if file.name.lower().endswith(_ZIPPED) else file.suffix.lower()


def _read_file(file: Path, text_key: str | None = None, keep: Sequence[str] = ()) -> Iterator[Document | Unread]:
    """What a file of one of the `SUFFIXES` holds, blank texts included."""
    name, suffix = str(file), suffix_of(file)
    if suffix == _PARQUET:
        yield from parquet(file, text_key, keep)
    elif suffix in (_JSON_LINES, _ZIPPED):
        yield from of_json_lines(_file_lines(file, zipped=suffix == _ZIPPED), name, text_key, keep)
    elif suffix == _PDF:
        yield from pdf(file.read_bytes(), name)
    else:
        yield Document(text=_TEXTS[suffix](file.read_bytes(), name), file=name)


def _file_lines(file: Path, *, zipped: bool) -> Iterator[bytes]:
    """The lines of a file, which is never whole in memory."""
    try:
        with gzip.open(file) if zipped else file.open("rb") as lines:
            yield from lines
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Unreadable(f"{file} cannot be unzipped: {error}") from error


def _files(path: Path) -> tuple[list[Path], list[Unread]]:
    """The files that a name stands for, itself or those of a folder in order, and what cannot be read of it."""
    types = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file"
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{plain_name(str(path))} does not exist.") from None
    except OSError as error:
        return [], [_unread(path, f"cannot be read: {error.strerror}.")]
    if stat.S_ISDIR(mode):
        files, unread = _files_below(path)
        if not files and not any(one.file == str(path) for one in unread):
            unread.append(_unread(path, f"holds no {types}."))
        return files, unread
    if not stat.S_ISREG(mode):  # a pipe or a device may never end
        return [], [_unread(path, "is no regular file; read a pipe as - (standard input).")]
    if suffix_of(path) not in SUFFIXES:
        return [], [_unread(path, f"is not a {types}.")]
    return [path], []


def _files_below(folder: Path) -> tuple[list[Path], list[Unread]]:
    files: list[Path] = []
    unread: list[Unread] = []

    def failed(error: OSError) -> None:
        unread.append(_unread(Path(error.filename), f"cannot be read: {error.strerror}."))

    for place, folders, names in os.walk(folder, onerror=failed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [one for one in (Path(place, name) for name in folders) if one.is_symlink()]
        unread += [
            _unread(one, "is a link to a folder, which is not followed.") for one in links if _leads_out(one, folder)
        ]
        for file in (Path(place, name) for name in names if not name.startswith((".", _LOCK))):
            try:
                regular = stat.S_ISREG(file.stat().st_mode)
            except OSError as error:
                unread.append(_unread(file, f"cannot be read: {error.strerror}."))
                continue
            if regular and suffix_of(file) in SUFFIXES:
                files.append(file)
            else:
                unread.append(_unread(file, "is of no type that is read." if regular else "is no regular file."))
    return sorted(files), sorted(unread, key=lambda one: one.file)


def _leads_out(link: Path, folder: Path) -> bool:
    """Whether what a link to a folder holds is not found below that folder anyway."""
    target, top = link.resolve(), folder.resolve()
    return not target.is_relative_to(top) and not top.is_relative_to(target)


def _unread(path: Path, reason: str) -> Unread:
    name = plain_name(str(path))
    return Unread(file=name, reason=f"{name} {reason}")


def _in_full(path: Path) -> Path:
    """The whole path as it was found: links stay, `..` does not."""
    path = path.absolute()
    if ".." not in path.parts:
        return path
    return path.resolve() if path.name == ".." else path.parent.resolve() / path.name


def plain_name(name: str) -> str:
    """A name that is not UTF-8 with its odd bytes written as `\\xfc`, so that it can be shown and kept."""
    return _ODD_BYTE.sub(lambda half: f"\\x{ord(half[0]) & 0xFF:02x}", name)


def _standard_input(text_key: str | None) -> Iterator[Document | Unread]:
    data, name = sys.stdin.buffer.read(), "standard input"
    if _looks_like_json_lines(data):
        yield from of_json_lines(io.BytesIO(data), name, text_key)
    else:
        yield Document(text=decoded(data, name), file=name)


def _looks_like_json_lines(data: bytes) -> bool:
    """Whether the first line with text is a JSON object (standard input has no file name that would tell)."""
    first = data.lstrip().split(b"\n", 1)[0]
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False

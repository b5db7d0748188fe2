"""From files to passages: read .txt, .md, .jsonl, folders and standard input; long texts are split (`windows`).

A *passage* is what one set of memory tokens stands for: an exact stretch of its document that fits the model's
document length. It knows its file and its number, so an answer can be cited. Left out: other file types (convert them
to text first) and overlapping windows (a sentence is never in two passages).
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clara_model.errors import ClaraError
from clara_model.windows import split_text

logger = logging.getLogger(__name__)

STDIN = "-"
TEXT_KEYS = ("text", "contents", "docs")
SUFFIXES = (".txt", ".md", ".jsonl")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document as read: a whole text file, or one text of a JSONL line."""

    text: str
    file: str
    """The file as it was named or found, or `standard input`."""
    line: int | None = None
    """Line number in a JSONL file, from 1; None for plain text."""


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


def read_documents(names: Sequence[str], *, stdin: BinaryIO | None = None) -> list[Document]:
    """Read the documents of files and folders; `-` is standard input.

    Folders are read recursively: their .txt, .md and .jsonl files in the order of their names, without hidden and
    empty ones. A file that is named twice is read once. Texts must be UTF-8; lone surrogates become U+FFFD. A file of
    a folder that is not UTF-8 is left out, with a warning that counts them.

    Args:
        names: files, folders or `-`.
        stdin: the byte stream that `-` reads (default: the process's standard input).

    Returns:
        At least one document, none of them blank.

    Raises:
        FileNotFoundError: a name that does not exist.
        ClaraError: a file without text, of another type, not UTF-8, or with a bad JSON line (named as file:line).
    """
    documents: list[Document] = []
    seen: set[Path] = set()
    unreadable: list[str] = []
    for name in names:
        if not name.strip():
            raise ClaraError(f"{name!r} names no file or folder; use . for the current folder.")
        if name == STDIN:
            data = (stdin if stdin is not None else sys.stdin.buffer).read()
            documents += _parse(data, "standard input", json_lines=_looks_like_json_lines(data), empty_ok=False)
            continue
        path = Path(name)
        for file in _files(path):
            if file.resolve() not in seen:
                seen.add(file.resolve())
                data, lines = file.read_bytes(), file.suffix.lower() == ".jsonl"
                if path.is_dir() and not _is_utf8(data):
                    unreadable.append(str(file))
                    continue
                documents += _parse(data, str(file), json_lines=lines, empty_ok=path.is_dir())
    if unreadable:
        more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        logger.warning("%s%s: not UTF-8 text, left out; convert to UTF-8 first.", unreadable[0], more)
    if not documents:
        what = "no file is UTF-8 text" if unreadable else "every file is empty"
        raise ClaraError(f"{', '.join(names)}: {what}." if names else "No documents were named.")
    return documents


def files_of(names: Sequence[str]) -> list[Path]:
    """The files that names of files and folders stand for, each once, in order.

    Raises:
        FileNotFoundError: a name that does not exist.
        ClaraError: a file of another type, or a folder without any.
    """
    found = [file for name in names for file in _files(Path(name))]
    return list({file.resolve(): file for file in found}.values())


def read_file(file: Path) -> list[Document]:
    """The documents of one file, as for `read_documents`; none where it is empty."""
    return _parse(file.read_bytes(), str(file), json_lines=file.suffix.lower() == ".jsonl", empty_ok=True)


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
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not found:
            raise ClaraError(f"{path} holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file.")
        return found
    if not path.is_file():  # a pipe or a device may never end
        raise ClaraError(f"{path} is no regular file; read a pipe as - (standard input).")
    if path.suffix.lower() not in SUFFIXES:
        raise ClaraError(f"{path} is not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file.")
    return [path]


def _parse(data: bytes, name: str, *, json_lines: bool, empty_ok: bool) -> list[Document]:
    """The documents of one file's bytes; none (with a warning) or an error where it has no text."""
    text = _decode(data, name)
    if json_lines:
        documents = [
            Document(text=part, file=name, line=number)
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
            for part in _texts_of_line(line, f"{name}:{number}")
        ]
    else:
        documents = [Document(text=text, file=name)]
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        if not empty_ok:
            raise ClaraError(f"{name} is empty: it holds no text.")
        logger.warning("%s is empty and left out.", name)
    return documents


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return True


def _decode(data: bytes, name: str) -> str:
    """UTF-8 with or without a byte order mark; line ends as newlines."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ClaraError(
            f"{name}:{line} is not UTF-8 text (byte 0x{data[error.start]:02x}); convert the file to UTF-8 first."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _texts_of_line(line: str, place: str) -> list[str]:
    """The texts of one JSON line: `{"text"|"contents"|"docs": a string or a list of strings}`."""
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ClaraError(f"{place} is not valid JSON: {getattr(error, 'msg', 'nested too deeply')}.") from None
    key = next((key for key in TEXT_KEYS if key in record), None) if isinstance(record, dict) else None
    if key is None:
        wanted = ", ".join(f'"{key}"' for key in TEXT_KEYS)
        raise ClaraError(f"{place} must be a JSON object with one of the keys {wanted}.")
    value = record[key]
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ClaraError(f'{place}: "{key}" must be a string or a list of strings.')
    return [_LONE_SURROGATE.sub("\ufffd", text) for text in texts]


def _looks_like_json_lines(data: bytes) -> bool:
    """Whether the first line with text is a JSON object (standard input has no file name that would tell)."""
    first = data.lstrip().split(b"\n", 1)[0]
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False

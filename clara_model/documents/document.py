"""What reading a file gives: documents and what could not be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from clara_model import errors
from clara_model.errors import ClaraError

Metadata = Mapping[str, Any]
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
    metadata: Metadata = field(default_factory=dict)
    """Of the row, what was asked for and is there: strings, numbers, truth values or lists of them."""

    @property
    def place(self) -> str:
        """Its file, and the line if it is one of several: ``facts.jsonl:7``."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Unread:
    """What could not be read: a file or data set, a part of it, or some of its rows; what else it holds is read."""

    file: str
    """As a `Document`'s."""
    reason: str
    """A sentence that names the place."""
    lines: range | None = None
    """The rows that were left out, counted from 1; None where this is not known."""


def until_error(documents: Iterable[Document | Unread], name: str) -> Iterator[Document | Unread]:
    """What can be read of a file or data set; an error that ends it is the last item."""
    try:
        yield from documents
    except ClaraError as error:
        yield Unread(file=name, reason=str(error))
    except OSError as error:
        yield Unread(file=name, reason=f"{name}: {error.strerror or one_line(error)}")


def decoded(data: bytes, name: str) -> str:
    """UTF-8 with or without a byte order mark; line ends as newlines.

    Raises:
        Unreadable: another encoding, with the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + data[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")
        raise Unreadable(f"{name}:{line}: {not_utf8(error)}; convert the file to UTF-8 first.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong, in words."""
    return f"not UTF-8 text (byte 0x{error.object[error.start]:02x})"


def lines_of(text: str) -> str:
    """Lines without blanks at their ends, at most one empty line between two."""
    lines = "\n".join(line.rstrip() for line in without_surrogates(text).replace("\0", "").splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n")


def without_surrogates(text: str) -> str:
    """Halves of characters as U+FFFD."""
    return _LONE_SURROGATE.sub("\ufffd", text)


@contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """Whatever a package says about a file that it cannot read, in one sentence."""
    try:
        yield
    except (ClaraError, OSError, MemoryError):
        raise
    except Exception as error:  # packages raise errors of their own, and whatever a broken file leads them to
        raise Unreadable(f"{name} cannot be read as {kind}: {one_line(error)}.") from error


def one_line(error: Exception) -> str:
    """What an error says; its name where it says nothing."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def needing(package: str, what: str) -> AbstractContextManager[None]:
    """Imports inside the block are those of a package that ``what`` needs; without it that is `Unreadable`."""
    return errors.needing(what, package, "documents", Unreadable)

"""Rows of JSON lines files and data sets on the hub: read lazily, every one checked, bad ones named by their place."""

from __future__ import annotations

import gzip
import hashlib
import mmap
import os
import re
import shutil
import tempfile
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, overload

from clara_model.errors import ClaraError, needing
from trainers import processes
from trainers.data.jsonl import decode
from trainers.data.row import Row, parse_row

SHOWN = 5
"""Bad rows listed in an error or a warning."""
Unfit = Callable[["Row"], str]
"""Says why a row is of no use for what is read; empty where it is."""


def listed(bad: Sequence[tuple[str, str]], name: str = "") -> str:
    """The first bad rows and their faults, in one line; ``name`` is not said again in each."""
    shown = "; ".join(f"{place.removeprefix(f'{name}, ')}: {fault}" for place, fault in bad[:SHOWN])
    return shown + (f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")


class LazyRows(Sequence[Row], ABC):
    """The rows of one file or data set, parsed when asked for; those that are kept are numbered from 0."""

    def __init__(
        self, name: str, count: int, prefer_gold: bool = False, unfit: Unfit | None = None, skip_bad: bool = False
    ) -> None:
        """Read every row once: bad ones are refused by a `ClaraError` before training, or left out."""
        if not count:
            raise ClaraError(f"{name} holds no rows")
        self.prefer_gold = prefer_gold
        self.left_out: list[tuple[str, str]] = []
        """Place and fault of each bad row that was left out."""
        good = array("Q")
        for number in range(count):
            try:
                row = self.row(number)
                fault = unfit(row) if unfit else ""
            except ClaraError as error:
                fault = str(error)
            if fault:
                self.left_out.append((f"{name}, {self.place(number)}", fault))
            else:
                good.append(number)
        if self.left_out and not (skip_bad and good):
            hint = "" if skip_bad else "; clara-train --bad_rows skip leaves them out"
            bad = listed(self.left_out, name)
            raise ClaraError(f"{name} has {len(self.left_out)} bad of {count} rows: {bad}{hint}")
        self.kept: Sequence[int] = good if self.left_out else range(count)

    @abstractmethod
    def row(self, number: int) -> Row:
        """Parse one row, by its number among all."""

    @abstractmethod
    def place(self, number: int) -> str:
        """What a row is called in a list of bad ones."""

    @abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits of what the rows hold; where it lies does not matter."""

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self.row(number) for number in self.kept[index]]
        return self.row(self.kept[index])


class JsonlRows(LazyRows):
    """The rows of one ``.jsonl`` or ``.jsonl.gz`` file; a plain file stays on disk. Blank lines are none."""

    def __init__(self, path: str | Path, **checks: Any) -> None:
        """Find the lines; ``checks`` and errors as for `read_rows`."""
        self.path = Path(path)
        self._buffer = _open(self.path)
        self._starts, self._ends, self._numbers = _line_places(self._buffer)
        super().__init__(str(path), len(self._starts), **checks)

    def row(self, number: int) -> Row:
        """See `LazyRows.row`."""
        values = decode(self._buffer[self._starts[number] : self._ends[number]])
        return parse_row(values, f"{self.path}:{self._numbers[number]}", prefer_gold=self.prefer_gold)

    def place(self, number: int) -> str:
        """``line NUMBER``."""
        return f"line {self._numbers[number]}"

    def fingerprint(self) -> str:
        """Of the unpacked bytes."""
        return hashlib.sha256(self._buffer).hexdigest()[:16]

    def nbytes(self, index: int) -> int:
        """Of a kept row's line."""
        return self._ends[self.kept[index]] - self._starts[self.kept[index]]


def _open(path: Path) -> mmap.mmap | bytes:
    """The file's bytes, mapped; a compressed one is unpacked into a temporary file first, once on each machine."""
    try:
        with path.open("rb") as packed:
            if path.suffix != ".gz":
                return _mapped(packed)
            if processes.process_count() > 1:
                with processes.unpacked(path).open("rb") as shared:
                    return _mapped(shared)
            with tempfile.TemporaryFile() as file:
                shutil.copyfileobj(gzip.open(packed), file)
                file.flush()
                return _mapped(file)
    except (OSError, EOFError, zlib.error) as error:
        raise ClaraError(f"{path} could not be read ({error})") from error


def _mapped(file: IO[bytes]) -> mmap.mmap | bytes:
    size = os.fstat(file.fileno()).st_size
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""


def _line_places(buffer: mmap.mmap | bytes) -> tuple[array[int], array[int], array[int]]:
    """Where each line that is not blank starts and ends, and its number counted from 1."""
    starts, ends, numbers = array("Q"), array("Q"), array("Q")
    lines = iter(buffer.readline, b"") if isinstance(buffer, mmap.mmap) else ()  # an empty file is not mapped
    end = 0
    for number, line in enumerate(lines, start=1):
        start, end = end, end + len(line)
        if line.strip():
            starts.append(start)
            ends.append(end - line.endswith(b"\n"))
            numbers.append(number)
    return starts, ends, numbers


class HubRows(LazyRows):
    """The rows of a data set on the hub, kept on disk by `datasets` and mapped, so it may be larger than memory."""

    def __init__(self, name: str, split: str = "train", **checks: Any) -> None:
        """Download it, or find it in the cache; ``checks`` and errors as for `read_rows`."""
        with needing(f"data set {name!r} on the hub", "datasets", "train"):
            import datasets
        self.name = name
        repository, _, named = name.partition(":")
        try:
            self._table = datasets.load_dataset(repository, split=named or split)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            said = f"{repository!r} is neither a file, a folder nor a data set that can be read from the hub"
            raise ClaraError(f"{said} ({first})") from error
        super().__init__(name, len(self._table), **checks)

    def row(self, number: int) -> Row:
        """See `LazyRows.row`."""
        try:
            found = self._table[number]
        except Exception as error:  # whatever a column's reader raises
            raise ClaraError(f"it cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from error
        values = {name: value for name, value in found.items() if value is not None}
        return parse_row(values, f"{self.name}:{number}", prefer_gold=self.prefer_gold)

    def place(self, number: int) -> str:
        """``row NUMBER``, counted from 0."""
        return f"row {number}"

    def fingerprint(self) -> str:
        """Of the table, as `datasets` keeps it."""
        return str(self._table._fingerprint)[:16]


class JoinedRows(Sequence[Row]):
    """Several sets of rows, one after the other; nothing is copied."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, rest = self.find(index + len(self) * (index < 0))
        return part[rest]

    def find(self, index: int) -> tuple[Sequence[Row], int]:
        """The part that holds a row, and the row's index there."""
        for part in self.parts if index >= 0 else ():
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)


def fingerprint_of_rows(rows: Sequence[Row]) -> str:
    """16 hexadecimal digits of what rows hold, of a file's or data set's own or of the rows in memory."""
    if isinstance(rows, LazyRows):
        return rows.fingerprint()
    if isinstance(rows, JoinedRows):
        held = " ".join(fingerprint_of_rows(part) for part in rows.parts)
    else:
        held = repr([replace(row, source="") for row in rows])
    return hashlib.sha256(held.encode()).hexdigest()[:16]


def length_of(rows: Sequence[Row], index: int) -> int:
    """How long a row's texts are, about: for putting rows of like length together."""
    if isinstance(rows, JoinedRows):
        return length_of(*rows.find(index))
    if isinstance(rows, JsonlRows):
        return rows.nbytes(index)
    row = rows[index]
    return sum(len(text) for texts in (row.documents, row.questions, row.answers) for text in texts)


def files_of(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """The single files and data sets that rows are joined from, in their order."""
    return [file for part in rows.parts for file in files_of(part)] if isinstance(rows, JoinedRows) else [rows]


def left_out_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Place and fault of every row that was left out."""
    return [one for file in files_of(rows) if isinstance(file, LazyRows) for one in file.left_out]


def is_hub_name(name: str | Path) -> bool:
    """Whether a name that is nothing on this machine may be ``owner/name`` on the hub."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(:\w+)?", str(name)) is not None and ".json" not in str(name)


def find_files(name: str | Path) -> list[Path]:
    """A file, or a folder's ``.jsonl`` and ``.jsonl.gz`` files by name. Raises `ClaraError`: there is none."""
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.name.endswith((".jsonl", ".jsonl.gz")))
        if not files:
            raise ClaraError(f"folder {path} holds no .jsonl or .jsonl.gz file")
        return files
    if not path.is_file():
        raise ClaraError(f"data file {path} does not exist")
    return [path]


def read_rows(
    names: Sequence[str | Path],
    *,
    prefer_gold: bool = False,
    split: str = "train",
    unfit: Unfit | None = None,
    skip_bad: bool = False,
) -> Sequence[Row]:
    """Rows of files, folders and data sets on the hub, in order; every one is checked.

    Args:
        names: paths, or ``owner/name[:split]`` on the hub.
        prefer_gold: as for `parse_row`.
        split: of data sets on the hub whose name has none behind a colon.
        unfit: what else is wrong with a row.
        skip_bad: leave bad rows out; `left_out_of` names them.

    Raises:
        ClaraError: a file is missing or holds bad lines, or a data set cannot be read.
    """
    parts: list[Sequence[Row]] = []
    checks: dict[str, Any] = {"prefer_gold": prefer_gold, "unfit": unfit, "skip_bad": skip_bad}
    for name in names:
        if not Path(name).expanduser().exists() and is_hub_name(name):
            parts.append(HubRows(str(name), split=split, **checks))
        else:
            parts += [JsonlRows(file, **checks) for file in find_files(name)]
    if not parts:
        raise ClaraError("no data files were given")
    return parts[0] if len(parts) == 1 else JoinedRows(parts)


def single_questions(rows: Sequence[Row]) -> list[Row]:
    """Rows with one question each: those with several are split, paraphrases are left out."""
    return [
        row if len(row.questions) == 1 else replace(row, questions=(question,), answers=(answer,))
        for row in rows
        for question, answer in zip(row.questions, row.answers, strict=False)
    ]

"""Rows of JSON lines files and of data sets on the hub: read lazily, every one checked, bad ones named by their place.

Leaves out what a row is (`trainers.data.row`) and tokens (`trainers.data.collator`).
"""

from __future__ import annotations

import gzip
import hashlib
import mmap
import os
import re
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, overload

from clara_model.errors import ClaraError
from trainers import processes
from trainers.data.jsonl import decode
from trainers.data.row import Row, parse_row

SHOWN = 5
"""Bad rows listed in an error or a warning."""
Unfit = Callable[["Row"], str]
"""Says why a row is of no use for what is read; empty where it is."""


def fits(row: Row) -> str:
    """Every row is of use."""
    return ""


def listed(bad: Sequence[tuple[str, str]], name: str = "") -> str:
    """The first bad rows and their faults, in one line; ``name`` is not said again in each."""
    shown = "; ".join(f"{place.removeprefix(f'{name}, ')}: {fault}" for place, fault in bad[:SHOWN])
    return shown + (f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")


class LazyRows(Sequence[Row]):
    """Rows that are parsed when asked for; a subclass gives its length and `row`."""

    def row(self, index: int) -> Row:
        """The row at an index from 0 to the length."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """16 hexadecimal digits of what the rows hold; where it lies does not matter."""
        raise NotImplementedError

    def length(self, index: int) -> int:
        """How long a row's texts are, about: for putting rows of like length together."""
        row = self.row(index)
        return sum(len(text) for texts in (row.documents, row.questions, row.answers) for text in texts)

    left_out: Sequence[tuple[str, str]] = ()
    """Place and fault of each bad row that was left out."""

    def place(self, index: int) -> str:
        """What a row is called in a list of bad ones."""
        return f"row {index}"

    def name(self) -> str:
        """Of the file or data set."""
        return type(self).__name__

    def keep(self, indices: Sequence[int]) -> None:
        """Only these rows from now on."""
        raise NotImplementedError

    def settled(self, unfit: Unfit, skip_bad: bool) -> list[tuple[str, str]]:
        """Read every row once: refuse bad ones, or leave them out and return them.

        Raises:
            ClaraError: there are bad rows that may not be left out, or no others.
        """
        bad, good = list[tuple[str, str]](), array("Q")
        for index in range(len(self)):
            try:
                fault = unfit(self.row(index))
            except ClaraError as error:
                fault = str(error)
            if fault:
                bad.append((f"{self.name()}, {self.place(index)}", fault))
            else:
                good.append(index)
        if bad and skip_bad and good:
            self.keep(good)
        elif bad:
            hint = "" if skip_bad else "; clara-train --bad_rows skip leaves them out"
            raise ClaraError(f"{self.name()} has {len(bad)} bad of {len(self)} rows: {listed(bad, self.name())}{hint}")
        return bad

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """One row, or some; negative indices count from the end."""
        if isinstance(index, slice):
            return [self.row(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.row(index % len(self))


class JsonlRows(LazyRows):
    """The rows of one ``.jsonl`` or ``.jsonl.gz`` file, parsed when asked for; a plain file stays on disk."""

    def __init__(
        self, path: str | Path, *, prefer_gold: bool = False, unfit: Unfit = fits, skip_bad: bool = False
    ) -> None:
        """Find the lines and check every one, so that a bad one is found before training and not in the middle of it.

        Args:
            path: the file.
            prefer_gold: as for `parse_row`.
            unfit: what else is wrong with a row.
            skip_bad: leave bad lines out and name them in ``left_out``.

        Raises:
            ClaraError: no file, no rows, or bad lines, with their numbers and what is wrong with them.
        """
        self.path, self.prefer_gold = Path(path), prefer_gold
        self._buffer = _open(self.path)
        self._starts, self._ends, self._numbers = _line_places(self._buffer)
        if not self._starts:
            raise ClaraError(f"{self.path} holds no rows")
        self.left_out = self.settled(unfit, skip_bad)

    def __len__(self) -> int:
        """Rows; blank lines are none."""
        return len(self._starts)

    def row(self, index: int) -> Row:
        """Parse one row."""
        number = self._numbers[index]
        return parse_row(self._values(index), f"{self.path}:{number}", prefer_gold=self.prefer_gold)

    def length(self, index: int) -> int:
        """Bytes of its line."""
        return self._ends[index] - self._starts[index]

    def fingerprint(self) -> str:
        """Of the unpacked bytes."""
        return hashlib.sha256(self._buffer).hexdigest()[:16]

    def _values(self, index: int) -> object:
        return decode(self._buffer[self._starts[index] : self._ends[index]])

    def place(self, index: int) -> str:
        """``line NUMBER``."""
        return f"line {self._numbers[index]}"

    def name(self) -> str:
        """The file's."""
        return str(self.path)

    def keep(self, indices: Sequence[int]) -> None:
        """Only these rows from now on."""
        self._starts, self._ends, self._numbers = (
            array("Q", [column[index] for index in indices]) for column in (self._starts, self._ends, self._numbers)
        )


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
    start, number, size = 0, 1, len(buffer)
    while start < size:
        end = buffer.find(b"\n", start)
        end = size if end < 0 else end
        if buffer[start:end].strip():
            starts.append(start)
            ends.append(end)
            numbers.append(number)
        start, number = end + 1, number + 1
    return starts, ends, numbers


class JoinedRows(LazyRows):
    """Several sets of rows, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        """Join them; nothing is copied."""
        self.parts = list(parts)

    def __len__(self) -> int:
        """Rows of all parts."""
        return sum(len(part) for part in self.parts)

    def fingerprint(self) -> str:
        """Of the parts in their order."""
        parts = " ".join(fingerprint_of_rows(part) for part in self.parts)
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def row(self, index: int) -> Row:
        """The row of the part that holds it."""
        part, rest = self._part(index)
        return part[rest]

    def length(self, index: int) -> int:
        """As the part that holds the row says."""
        return length_of(*self._part(index))

    def _part(self, index: int) -> tuple[Sequence[Row], int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)


class HubRows(LazyRows):
    """The rows of a data set on the hub, kept on disk by `datasets` and mapped, so it may be larger than memory."""

    def __init__(
        self,
        name: str,
        *,
        prefer_gold: bool = False,
        split: str = "train",
        unfit: Unfit = fits,
        skip_bad: bool = False,
    ) -> None:
        """Download it, or find it in the cache, and check every row.

        Args:
            name: ``owner/name``, or ``owner/name:split``.
            prefer_gold: as for `parse_row`.
            split: where the name has none.
            unfit: what else is wrong with a row.
            skip_bad: leave bad rows out and name them in ``left_out``.

        Raises:
            ClaraError: `datasets` is not installed, the data set cannot be read, or it has bad rows.
        """
        try:
            import datasets
        except ImportError as error:
            raise ClaraError(
                f"data set {name!r} is on the hub; install clara-integrations[train] to read it"
            ) from error
        self._name, self.prefer_gold = name, prefer_gold
        repository, _, named = name.partition(":")
        try:
            self._table = datasets.load_dataset(repository, split=named or split)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ClaraError(
                f"{repository!r} is neither a file, a folder nor a data set that can be read from the hub ({first})"
            ) from error
        if not len(self._table):
            raise ClaraError(f"{name} holds no rows")
        self._rows: Sequence[int] = range(len(self._table))
        self.left_out = self.settled(unfit, skip_bad)

    def __len__(self) -> int:
        """Rows of the split."""
        return len(self._rows)

    def fingerprint(self) -> str:
        """Of the table, as `datasets` keeps it."""
        return str(self._table._fingerprint)[:16]

    def place(self, index: int) -> str:
        """``row NUMBER``, counted from 0."""
        return f"row {self._rows[index]}"

    def name(self) -> str:
        """With the split, where it was given so."""
        return self._name

    def keep(self, indices: Sequence[int]) -> None:
        """Only these rows from now on."""
        self._rows = array("Q", [self._rows[index] for index in indices])

    def row(self, index: int) -> Row:
        """Parse one row."""
        number = self._rows[index]
        try:
            found = self._table[number]
        except Exception as error:  # whatever a column's reader raises
            raise ClaraError(f"it cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from error
        values = {name: value for name, value in found.items() if value is not None}
        return parse_row(values, f"{self._name}:{number}", prefer_gold=self.prefer_gold)


def fingerprint_of_rows(rows: Sequence[Row]) -> str:
    """`LazyRows.fingerprint`, or one of the rows themselves where they are in memory."""
    if isinstance(rows, LazyRows):
        return rows.fingerprint()
    return hashlib.sha256(repr([replace(row, source="") for row in rows]).encode()).hexdigest()[:16]


def length_of(rows: Sequence[Row], index: int) -> int:
    """`LazyRows.length`, or the same of rows in memory."""
    return rows.length(index) if isinstance(rows, LazyRows) else _InMemory(rows).length(index)


def files_of(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """The single files and data sets that rows are joined from, in their order."""
    return [file for part in rows.parts for file in files_of(part)] if isinstance(rows, JoinedRows) else [rows]


def left_out_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Place and fault of every row that was left out."""
    files = files_of(rows)
    return [one for file in files if isinstance(file, LazyRows) for one in file.left_out]


class _InMemory(LazyRows):
    """Rows of a list."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> Row:
        """The row itself."""
        return self.rows[index]


def is_hub_name(name: str | Path) -> bool:
    """Whether a name that is nothing on this machine may be ``owner/name`` on the hub."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(:\w+)?", str(name)) is not None and ".json" not in str(name)


def find_files(name: str | Path) -> list[Path]:
    """A file, or the ``.jsonl`` and ``.jsonl.gz`` files of a folder in the order of their names.

    Raises:
        ClaraError: there is no such file, or no rows in the folder.
    """
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
    unfit: Unfit = fits,
    skip_bad: bool = False,
) -> Sequence[Row]:
    """Rows of files, folders and data sets on the hub, in order; every one is checked.

    Args:
        names: paths, or ``owner/name[:split]`` on the hub.
        prefer_gold: as for `parse_row`.
        split: of data sets on the hub whose name has none behind a colon.
        unfit: what else is wrong with a row (`trainers.data.fit`).
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

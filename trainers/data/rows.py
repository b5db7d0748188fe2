"""Training and evaluation rows from JSON lines files: read lazily, checked whole, bad lines named by file and number.

Formats, as published: stage 1 ``{"data_type": "qa" | "paraphrase", "question": [..], "answers": [..], "docs": [..]}``;
stages 2 and 3 and evaluation ``{"question", "docs", "gold_answer" | "answer" | "answers" | "golden_answers",
"pos_index"?}``. Leaves out tokens (`trainers.data.collator`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import mmap
import os
import re
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, overload

from clara_model.errors import ClaraError

Kind = Literal["qa", "paraphrase"]
DOCUMENTS = ("docs", "context", "content")
SHOWN = 5
"""Bad lines listed in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training or evaluation example."""

    documents: tuple[str, ...]
    """At least one; the candidates in stage 3."""
    questions: tuple[str, ...]
    """One in stages 2 and 3, any number in stage 1, none in a paraphrase row."""
    answers: tuple[str, ...]
    """What is learned: one answer per question, or the paraphrase."""
    kind: Kind = "qa"
    """``qa`` or ``paraphrase``."""
    positives: tuple[int, ...] = ()
    """Gold documents as indices of ``documents``, where known."""
    references: tuple[str, ...] = ()
    """Accepted answers of a single question, for evaluation."""
    source: str = ""
    """``file:line``."""


def parse_row(values: object, source: str = "", *, prefer_gold: bool = False) -> Row:
    """Check and convert one decoded line.

    Args:
        values: the decoded JSON value.
        source: ``file:line``, for messages.
        prefer_gold: learn ``gold_answer`` where a row also has an ``answer`` written by a model (stage 3, evaluation).

    Raises:
        ClaraError: what is wrong with the row, in one sentence without its source.
    """
    if not isinstance(values, dict):
        raise ClaraError(f"a row must be a JSON object, got {type(values).__name__}")
    documents = _documents(values)
    kind = values.get("data_type", "qa")
    if kind not in ("qa", "paraphrase"):
        raise ClaraError(f'"data_type" must be "qa" or "paraphrase", got {kind!r}')
    answers = _answers(values, prefer_gold)
    if kind == "paraphrase":
        return Row(documents=documents, questions=(), answers=answers[:1], kind="paraphrase", source=source)
    questions = _questions(values)
    if isinstance(values["question"], list):
        if len(questions) != len(answers):
            raise ClaraError(f"{len(questions)} questions need as many answers, got {len(answers)}")
        return Row(documents=documents, questions=questions, answers=answers, source=source)
    return Row(
        documents=documents,
        questions=questions,
        answers=answers[:1],
        positives=_positives(values, len(documents)),
        references=_references(values, answers),
        source=source,
    )


def _documents(values: dict[str, Any]) -> tuple[str, ...]:
    for name in DOCUMENTS:
        if isinstance(values.get(name), list):
            return _strings(values[name], name)
    raise ClaraError(f'"docs" must be a list of strings, got {type(values.get("docs")).__name__}')


def _questions(values: dict[str, Any]) -> tuple[str, ...]:
    question = values.get("question")
    if isinstance(question, str):
        return (question,)
    if isinstance(question, list):
        return _strings(question, "question")
    raise ClaraError(f'"question" must be a string or a list of strings, got {type(question).__name__}')


def _answers(values: dict[str, Any], prefer_gold: bool) -> tuple[str, ...]:
    names = ["answer", "answers", "golden_answers", "gold_answer"]
    names.sort(key=lambda name: name != "gold_answer" if prefer_gold else False)
    for name in names:
        found = values.get(name)
        if isinstance(found, str) and name in ("answer", "gold_answer"):
            return (found,)
        if isinstance(found, list) and name in ("answers", "golden_answers", "gold_answer"):
            return _strings(found, name)
    got = {name: type(values[name]).__name__ for name in names if name in values}
    raise ClaraError(f'an "answer" string or an "answers" list is needed, got {got or "none"}')


def _references(values: dict[str, Any], answers: tuple[str, ...]) -> tuple[str, ...]:
    """Every accepted answer, the learned one first unless a model wrote it."""
    found: list[str] = [] if "gold_answer" in values else list(answers)
    for name in ("gold_answer", "golden_answers", "answers"):
        value = values.get(name)
        found += [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(dict.fromkeys(text for text in found if isinstance(text, str))) or answers


def _positives(values: dict[str, Any], documents: int) -> tuple[int, ...]:
    found = values.get("pos_index") or []
    found = [found] if isinstance(found, int) and not isinstance(found, bool) else found
    if not isinstance(found, list) or any(not isinstance(i, int) or isinstance(i, bool) for i in found):
        raise ClaraError(f'"pos_index" must be a list of whole numbers, got {found!r}')
    beyond = [i for i in found if i >= documents]
    if beyond:
        raise ClaraError(f'"pos_index" holds {beyond[0]}, but there are {documents} documents (counted from 0)')
    return tuple(dict.fromkeys(i for i in found if i >= 0))


def _strings(values: list[Any], name: str) -> tuple[str, ...]:
    if not values:
        raise ClaraError(f'"{name}" must hold at least one string, got an empty list')
    wrong = [value for value in values if not isinstance(value, str)]
    if wrong:
        raise ClaraError(f'"{name}" must hold only strings, got {type(wrong[0]).__name__}')
    return tuple(values)


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

    def __init__(self, path: str | Path, *, prefer_gold: bool = False, check: bool = True) -> None:
        """Find the lines and check every one.

        Args:
            path: the file.
            prefer_gold: as for `parse_row`.
            check: parse every line now, so that a bad one is found before training and not in the middle of it.

        Raises:
            ClaraError: no file, no rows, or bad lines, with their numbers and what is wrong with them.
        """
        self.path, self.prefer_gold = Path(path), prefer_gold
        self._buffer = _open(self.path)
        self._starts, self._numbers = _line_starts(self._buffer)
        if not self._starts:
            raise ClaraError(f"{self.path} holds no rows")
        if check:
            self._check()

    def __len__(self) -> int:
        """Rows; blank lines are none."""
        return len(self._starts)

    def row(self, index: int) -> Row:
        """Parse one row."""
        number = self._numbers[index]
        return parse_row(self._values(index), f"{self.path}:{number}", prefer_gold=self.prefer_gold)

    def length(self, index: int) -> int:
        """Bytes of its line, and of blank ones behind it."""
        following = index + 1
        return (self._starts[following] if following < len(self) else len(self._buffer)) - self._starts[index]

    def fingerprint(self) -> str:
        """Of the unpacked bytes."""
        return hashlib.sha256(self._buffer).hexdigest()[:16]

    def _values(self, index: int) -> object:
        start = self._starts[index]
        end = self._buffer.find(b"\n", start)
        try:
            return json.loads(self._buffer[start : end if end >= 0 else len(self._buffer)])
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ClaraError(f"not valid JSON ({error})") from error

    def problems(self) -> Iterator[tuple[int, str]]:
        """Line number and what is wrong, of every bad line."""
        for index, number in enumerate(self._numbers):
            try:
                self[index]
            except ClaraError as error:
                yield number, str(error)

    def _check(self) -> None:
        found = list(self.problems())
        if found:
            listed = "; ".join(f"line {number}: {problem}" for number, problem in found[:SHOWN])
            more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise ClaraError(f"{self.path} has {len(found)} bad of {len(self)} rows: {listed}{more}")


def _open(path: Path) -> mmap.mmap | bytes:
    """The file's bytes, mapped; a compressed one is unpacked into a temporary file first."""
    try:
        with path.open("rb") as packed:
            if path.suffix != ".gz":
                return _mapped(packed)
            with tempfile.TemporaryFile() as file:
                shutil.copyfileobj(gzip.open(packed), file)
                file.flush()
                return _mapped(file)
    except (OSError, EOFError, zlib.error) as error:
        raise ClaraError(f"{path} could not be read ({error})") from error


def _mapped(file: IO[bytes]) -> mmap.mmap | bytes:
    size = os.fstat(file.fileno()).st_size
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""


def _line_starts(buffer: mmap.mmap | bytes) -> tuple[array[int], array[int]]:
    """Where each line that is not blank starts, and its number counted from 1."""
    starts, numbers = array("Q"), array("Q")
    start, number, size = 0, 1, len(buffer)
    while start < size:
        end = buffer.find(b"\n", start)
        end = size if end < 0 else end
        if buffer[start:end].strip():
            starts.append(start)
            numbers.append(number)
        start, number = end + 1, number + 1
    return starts, numbers


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

    def __init__(self, name: str, *, prefer_gold: bool = False, split: str = "train") -> None:
        """Download it, or find it in the cache.

        Args:
            name: ``owner/name``, or ``owner/name:split``.
            prefer_gold: as for `parse_row`.
            split: where the name has none.

        Raises:
            ClaraError: `datasets` is not installed, or the data set cannot be read.
        """
        try:
            import datasets
        except ImportError as error:
            raise ClaraError(
                f"data set {name!r} is on the hub; install clara-integrations[train] to read it"
            ) from error
        self.name, self.prefer_gold = name, prefer_gold
        repository, _, named = name.partition(":")
        try:
            self._table = datasets.load_dataset(repository, split=named or split)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ClaraError(
                f"{repository!r} is neither a file, a folder nor a data set that can be read from the hub ({first})"
            ) from error

    def __len__(self) -> int:
        """Rows of the split."""
        return len(self._table)

    def fingerprint(self) -> str:
        """Of the table, as `datasets` keeps it."""
        return str(self._table._fingerprint)[:16]

    def row(self, index: int) -> Row:
        """Parse one row; a bad one is reported when it is reached."""
        source = f"{self.name}:{index}"
        values = {name: value for name, value in self._table[index].items() if value is not None}
        try:
            return parse_row(values, source, prefer_gold=self.prefer_gold)
        except ClaraError as error:
            raise ClaraError(f"{source}: {error}") from error


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


def read_rows(names: Sequence[str | Path], *, prefer_gold: bool = False, split: str = "train") -> Sequence[Row]:
    """Rows of files, folders and data sets on the hub, in order; every line of a file is checked.

    Args:
        names: paths, or ``owner/name[:split]`` on the hub.
        prefer_gold: as for `parse_row`.
        split: of data sets on the hub whose name has none behind a colon.

    Raises:
        ClaraError: a file is missing or holds bad lines, or a data set cannot be read.
    """
    parts: list[Sequence[Row]] = []
    for name in names:
        if not Path(name).expanduser().exists() and is_hub_name(name):
            parts.append(HubRows(str(name), prefer_gold=prefer_gold, split=split))
        else:
            parts += [JsonlRows(file, prefer_gold=prefer_gold) for file in find_files(name)]
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

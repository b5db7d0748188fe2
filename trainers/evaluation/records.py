"""One JSON line for each question and system: what was ranked, read and written, its scores, its cost, or its failure.

Each process writes a file of its own, line by line, so a run that ends early goes on where it stopped; when all are
done, the parts become one file in the order of the questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from clara_model.errors import ClaraError


@dataclass(frozen=True, kw_only=True)
class Record:
    """One question as one system answered it."""

    number: int
    """Of the question in the data set, from 0."""
    question: str
    references: list[str] = field(default_factory=list)
    answer: str | None = None
    """None where it failed, for the reason in ``error``."""
    error: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    """``em``, ``f1``, ``cover_em``; of a paraphrase ``rouge1``, ``rougeL`` and, with spaCy, ``entities``."""
    order: list[int] = field(default_factory=list)
    """Passages of the pool, best first."""
    ranking: list[int] = field(default_factory=list)
    """The same as documents."""
    read: list[int] = field(default_factory=list)
    """The documents of the passages that were read, best first."""
    shown: list[str] = field(default_factory=list)
    """The beginnings of these passages."""
    left_out: int = 0
    """Passages that did not fit the prompt."""
    positives: list[int] = field(default_factory=list)
    answer_at: int | None = None
    """From 1, the first ranked passage that holds an accepted answer."""
    cluster: str = ""
    source: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase, this question's share of its batch."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """By phase, of its batch."""
    prompt_tokens: int = 0
    text_tokens: int = 0
    """Of the passages that were read."""
    completion_tokens: int = 0
    finish_reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is no answer."""
        return self.answer is None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Record:
        """From a line's values; what a later version has added is left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


class Records:
    """The records of one system in a folder; process ``process`` appends to a part of its own."""

    def __init__(self, folder: Path, system: str, process: int = 0) -> None:
        self._stem, self._folder = file_name(system), folder
        self._part = folder / f"{self._stem}.part{process}.jsonl"

    @property
    def path(self) -> Path:
        """The whole, once it is made."""
        return self._folder / f"{self._stem}.jsonl"

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._stem}.part*.jsonl"))

    def _all(self) -> dict[int, Record]:
        """All that is written so far, by number; an answer wins over a failure."""
        found: dict[int, Record] = {}
        for file in [self.path, *self._parts()]:
            for one in read_records(file) if file.exists() else ():
                if one.number not in found or found[one.number].failed:
                    found[one.number] = one
        return found

    def read(self) -> dict[int, Record]:
        """All that is written so far, by number, failures left out: they are tried again."""
        return {number: one for number, one in self._all().items() if not one.failed}

    def append(self, records: Iterable[Record]) -> None:
        """Write some down; they are on the disk when it returns. A last line that was not whole is cut off."""
        self._folder.mkdir(parents=True, exist_ok=True)
        data = self._part.read_bytes() if self._part.exists() else b""
        if data and not data.endswith(b"\n"):
            self._part.write_bytes(data[: data.rfind(b"\n") + 1])
        with self._part.open("a", encoding="utf-8") as file:
            file.writelines(map(_line, records))

    def merge(self, count: int) -> list[Record]:
        """All parts as one file in the questions' order, by one process at the end; a `ClaraError` if some lack."""
        parts, found = self._parts(), self._all()
        if missing := [number for number in range(count) if number not in found]:
            said = f"{len(missing)} questions are missing in {self._folder}"
            raise ClaraError(f"{said} (the first is {missing[0]}); run again")
        whole = [found[number] for number in range(count)]
        new = self.path.with_suffix(".new")
        new.write_text("".join(map(_line, whole)), encoding="utf-8")
        new.replace(self.path)
        for file in parts:
            file.unlink()
        return whole


def _line(record: Record) -> str:
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"


def read_records(file: Path) -> Iterator[Record]:
    """The records of one file; a last line that was not written whole is left out."""
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield Record.of(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                return
            raise ClaraError(f"{file}:{number} is damaged ({error}); delete the line and run again") from error


def file_name(name: str) -> str:
    """A name that any file system takes."""
    return "".join(one if one.isalnum() or one in "-_." else "-" for one in name).strip("-") or "unnamed"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """As Markdown; the first row has the titles."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)

"""What is in data files: rows by type, lengths in tokens, what would be cut, what comes twice, and every bad line.

Rows are read as training reads them, one line at a time, so files may be larger than memory; what is remembered of each
row is a few numbers and hashes.
"""

from __future__ import annotations

import hashlib
import statistics
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clara_model.errors import ClaraError
from trainers.data.jsonl import decode, lines_of
from trainers.data.row import Row, parse_row, unfit
from trainers.data.rows import find_files
from trainers.data.token_counts import TokenCounter
from trainers.training.train_config import PUBLISHED_STAGES, STAGE_DEFAULTS

if TYPE_CHECKING:
    from clara_model.modeling.objectives import Stage
    from clara_model.modeling.tokens import Tokens

TEXTS = ("document", "question", "answer", "paraphrase")
_ROWS_AT_ONCE = 256


class Problem(NamedTuple):
    """Something about one line, ``file:line``."""

    place: str
    what: str


class StageCheck:
    """Rows held against the stage that shall learn from them: what it refuses, and whose questions are shortened.

    It collates every row as training does, so nothing is seen here that a run would not meet, and nothing is missed.
    """

    def __init__(self, stage: str, tokens: Tokens | None = None, *, max_len: int = 0, documents: int = 0) -> None:
        """``stage``, ``max_len`` and ``documents`` (``--generation_top_k``) as of clara-train, 0 for the stage's own.

        Without the ``tokens`` of the model that shall be trained, lengths are not looked at.
        """
        name = PUBLISHED_STAGES.get(stage, stage)
        if name not in STAGE_DEFAULTS:
            raise ClaraError(f"stage must be one of {', '.join([*STAGE_DEFAULTS, *PUBLISHED_STAGES])}, got {stage!r}")
        self.stage: Stage = name  # type: ignore[assignment]
        self.documents = documents or int(STAGE_DEFAULTS[name]["generation_top_k"])
        self._collate = None
        if tokens is not None:
            from trainers.data.collator import Collator

            most = max_len or int(STAGE_DEFAULTS[name]["max_len"])
            self._collate = Collator(tokens, self.stage, top_k=self.documents, max_length=most)

    def look_at(self, row: Row) -> tuple[str, int]:
        """Why the stage cannot learn from a row, empty where it can; and how many of its questions are shortened."""
        from trainers.data.sampling import TrainingItem

        fault = unfit(row, self.stage, self.documents)
        if fault or self._collate is None:
            return fault, 0
        try:
            batch = self._collate([TrainingItem(row, 0, 0)])
        except ClaraError as error:
            return str(error).removeprefix(f"{row.source}: "), 0
        return "", int(batch["shortened"]) if "shortened" in batch else 0


@dataclass(kw_only=True)
class FileReport:
    """What was found in one file."""

    path: str
    rows: Counter[str] = field(default_factory=Counter)
    """Good rows by type: ``pairs`` and ``paraphrase`` (stage 1), ``question`` (stages 2 and 3, evaluation)."""
    candidates: Counter[int] = field(default_factory=Counter)
    """Rows by number of documents."""
    lengths: dict[str, array[int]] = field(default_factory=lambda: {name: array("I") for name in TEXTS})
    """Tokens of every text."""
    cut_documents: int = 0
    """Documents longer than ``doc_max_length``."""
    cut_tokens: int = 0
    """Document tokens beyond it."""
    shortened: int = 0
    """Questions that lose their end at ``max_len``, where rows are held against a stage."""
    with_positives: int = 0
    """Rows of type ``question`` with at least one positive."""
    positives_out_of_range: int = 0
    """Bad lines whose ``pos_index`` names a document that is not there."""
    bad: list[Problem] = field(default_factory=list)
    """Lines training would refuse."""
    repeated: list[Problem] = field(default_factory=list)
    """Rows that equal an earlier one, in this file or one before it."""
    remarks: list[Problem] = field(default_factory=list)
    """What training takes but is hardly meant: blank texts, the same document or question twice in one row."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "path": self.path,
            "rows": dict(self.rows),
            "documents_per_row": {str(number): rows for number, rows in sorted(self.candidates.items())},
            "tokens": {name: summary_of(counts) for name, counts in self.lengths.items() if counts},
            "cut_documents": self.cut_documents,
            "cut_tokens": self.cut_tokens,
            "shortened_questions": self.shortened,
            "rows_with_positives": self.with_positives,
            "positives_out_of_range": self.positives_out_of_range,
            **{name: [one._asdict() for one in getattr(self, name)] for name in ("bad", "repeated", "remarks")},
        }


def summary_of(counts: Sequence[int]) -> dict[str, float | int]:
    """Number of texts, mean, median, 95th percentile and longest of at least one text's tokens."""
    ordered = sorted(counts)
    return {
        "texts": len(ordered),
        "mean": round(statistics.fmean(ordered), 1),
        "median": statistics.median_low(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "longest": ordered[-1],
    }


class Checker:
    """Looks at files one after the other; rows and questions that come twice are found across files."""

    def __init__(self, counter: TokenCounter, doc_max_length: int, stage: StageCheck | None = None) -> None:
        """``doc_max_length``: document tokens the model reads; ``stage`` shall learn from the rows."""
        if doc_max_length < 1:
            raise ClaraError(f"doc_max_length must be at least 1, got {doc_max_length}")
        self.counter, self.doc_max_length, self.stage = counter, doc_max_length, stage
        self._rows, self._questions = dict[bytes, str](), dict[bytes, str]()

    def check(self, path: Path) -> FileReport:
        """Read one file. Raises `ClaraError`: it cannot be read at all."""
        report = FileReport(path=str(path))
        good: list[Row] = []
        for place, line in lines_of(path):
            row = self._row(line, place, report)
            if row is not None:
                self._look_at(row, report)
                good.append(row)
            if len(good) >= _ROWS_AT_ONCE:
                self._measure(good, report)
                good.clear()
        self._measure(good, report)
        if not report.rows and not report.bad:
            report.bad.append(Problem(str(path), "the file holds no rows"))
        return report

    def _row(self, line: bytes, place: str, report: FileReport) -> Row | None:
        values: object = None
        try:
            values = decode(line)
            row = parse_row(values, place, prefer_gold=self.stage is not None and self.stage.stage == "end_to_end")
        except ClaraError as error:
            report.bad.append(Problem(place, str(error)))
            report.positives_out_of_range += _out_of_range(values)
            return None
        fault, shortened = self.stage.look_at(row) if self.stage is not None else ("", 0)
        report.shortened += shortened
        if fault:
            report.bad.append(Problem(place, fault))
        return None if fault else row

    def _look_at(self, row: Row, report: FileReport) -> None:
        kind = "paraphrase" if row.kind == "paraphrase" else "question" if row.references else "pairs"
        report.rows[kind] += 1
        report.candidates[len(row.documents)] += 1
        report.with_positives += bool(row.positives)
        report.remarks += [Problem(row.source, what) for what in _remarks(row)]
        digest = _digest(row.kind, *row.documents, "/", *row.questions, "/", *row.answers)
        first = self._rows.setdefault(digest, row.source)
        if first != row.source:
            report.repeated.append(Problem(row.source, f"the same row as {first}"))
        elif kind == "question":
            asked = self._questions.setdefault(_digest(row.questions[0].casefold().strip()), row.source)
            if asked != row.source:
                report.remarks.append(Problem(row.source, f"the same question as {asked}, other row"))

    def _measure(self, rows: Sequence[Row], report: FileReport) -> None:
        texts: dict[str, list[str]] = {name: [] for name in TEXTS}
        for row in rows:
            texts["document"] += row.documents
            texts["question"] += row.questions
            texts["paraphrase" if row.kind == "paraphrase" else "answer"] += row.answers
        counts = {name: self.counter.count(some) for name, some in texts.items()}
        for name, some in counts.items():
            report.lengths[name].extend(some)
        over = [count - self.doc_max_length for count in counts["document"] if count > self.doc_max_length]
        report.cut_documents += len(over)
        report.cut_tokens += sum(over)


def check_files(
    names: Sequence[str], counter: TokenCounter, doc_max_length: int, stage: StageCheck | None = None
) -> list[FileReport]:
    """Look at files and folders. Raises `ClaraError`: a name that does not exist, or a file that cannot be read."""
    checker = Checker(counter, doc_max_length, stage)
    return [checker.check(path) for path in dict.fromkeys(path for name in names for path in find_files(name))]


def _out_of_range(values: object) -> bool:
    if not isinstance(values, dict) or not isinstance(values.get("docs"), list):
        return False
    found = values.get("pos_index")
    numbers = found if isinstance(found, list) else [found]
    return any(isinstance(number, int) and number >= len(values["docs"]) for number in numbers)


def _remarks(row: Row) -> Iterator[str]:
    for name, texts in (("document", row.documents), ("question", row.questions), ("answer", row.answers)):
        torn = sum(text.encode(errors="replace") != text.encode(errors="surrogatepass") for text in texts)
        blank = sum(not text.strip() for text in texts)
        again = len(texts) - len(set(texts)) if name != "answer" else 0
        if torn:
            yield f"{torn} {name}{'s' * (torn > 1)} with half a character (a lone surrogate), read as U+FFFD"
        if blank:
            yield f"{blank} blank {name}{'s' * (blank > 1)}"
        if again:
            yield f"{again} {name}{'s' * (again > 1)} twice in the row"


def _digest(*parts: str) -> bytes:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode("utf-8", "replace"))
    return digest.digest()

"""What `clara-data` shows: tables of what is in data files and of what a run made, as terminal text.

Texts of rows and files are data: control characters are made visible and nothing in them is read as markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clara_model.console.tables import visible
from trainers.data.check import TEXTS, FileReport, Problem, summary_of

SHOWN = 5
"""Repeated rows and remarks shown of each file, unless all are asked for. Bad lines are always all shown."""


def check_report(reports: Sequence[FileReport], unit: str, doc_max_length: int, *, show_all: bool) -> RenderableType:
    """All that was found, the verdict last."""
    bad = sum(len(report.bad) for report in reports)
    parts: list[RenderableType] = [_rows_table(reports), Text(), _lengths_table(reports, unit, doc_max_length)]
    for title, style, name, limit in (  # the worst last, where the eye is
        ("Repeated rows", "yellow", "repeated", None if show_all else SHOWN),
        ("Worth a look", "yellow", "remarks", None if show_all else SHOWN),
        ("Bad lines", "red", "bad", None),
    ):
        parts += _problems(title, style, [getattr(report, name) for report in reports], limit)
    verdict = f"{bad:,} bad line{'s' if bad > 1 else ''}: training refuses these files." if bad else "No bad line."
    if shortened := sum(report.shortened for report in reports):
        are = "questions are" if shortened > 1 else "question is"
        parts += [Text(), Text(f"{shortened:,} {are} longer than max_len leaves room for; training shortens it.")]
    if unit == "words":
        parts += [Text(), Text("Counted in words; --model NAME counts a model's tokens.", style="dim")]
    return Group(*parts, Text(), Text(verdict, style="bold red" if bad else "bold green"))


def _rows_table(reports: Sequence[FileReport]) -> Table:
    table = _table("file", "rows", "qa sets", "paraphrases", "questions", "with gold", "docs/row", "bad", "repeated")

    def counts(report: FileReport) -> list[int]:
        kinds = [report.rows[kind] for kind in ("pairs", "paraphrase", "question")]
        return [report.rows.total(), *kinds, report.with_positives, len(report.bad), len(report.repeated)]

    together = sum((report.candidates for report in reports), Counter[int]())
    lines = [counts(report) for report in reports]
    named = [(visible(report.path), line, report.candidates) for report, line in zip(reports, lines, strict=True)]
    if len(reports) > 1:
        named.append(("together", [sum(column) for column in zip(*lines, strict=True)], together))
    for name, line, candidates in named:
        if name == "together" and len(reports) > 1:
            table.add_section()
        low, high = min(candidates, default=0), max(candidates, default=0)
        documents = "-" if not candidates else str(low) if low == high else f"{low}-{high}"
        table.add_row(name, *map(_number, line[:5]), documents, *map(_number, line[5:]))
    return table


def _lengths_table(reports: Sequence[FileReport], unit: str, doc_max_length: int) -> Table:
    table = _table(f"length in {unit}", "texts", "mean", "median", "95 %", "longest", f"cut at {doc_max_length}")
    for name in TEXTS:
        counts = [count for report in reports for count in report.lengths[name]]
        if counts:
            cells = [_number(value) for value in summary_of(counts).values()]
            table.add_row(f"{name}s", *cells, _cut(reports, counts) if name == "document" else "")
    return table


def _cut(reports: Sequence[FileReport], counts: Sequence[int]) -> str:
    """How many documents are cut, and what share of all document tokens is lost."""
    cut = sum(report.cut_documents for report in reports)
    lost = sum(report.cut_tokens for report in reports) / max(1, sum(counts))
    return f"{cut:,} ({cut / len(counts):.1%}), {lost:.1%} lost" if cut else "0"


def _problems(title: str, style: str, found: Sequence[Sequence[Problem]], limit: int | None) -> list[RenderableType]:
    """A heading and the places, of each file at most ``limit``."""
    if not any(found):
        return []
    lines = []
    for problems in found:
        lines += [f"  {visible(problem.place)}: {visible(problem.what)}" for problem in problems[:limit]]
        if limit is not None and len(problems) > limit:
            lines.append(f"  and {len(problems) - limit:,} more there; --all shows them")
    number = sum(len(problems) for problems in found)
    return [Text(), Text(f"{title} ({number:,})", style=style), Text("\n".join(lines))]


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _number(value: float) -> str:
    return f"{value:,}"

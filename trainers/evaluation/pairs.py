"""Any two systems of an evaluation against each other, on the questions that both answered: differences and p-values.

The difference is of the mean F1 (ROUGE-L of paraphrases), the system of the row minus that of the column. Leaves out
the tests themselves (`evaluation.intervals`) and the comparison with the checkpoint, which every table has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rich.table import Table
from rich.text import Text

from trainers.evaluation.intervals import difference_interval, paired_p
from trainers.evaluation.records import Record

COMPARED = ("f1", "rougeL")
TITLES = {"f1": "F1", "rougeL": "ROUGE-L"}
Summary = Mapping[str, Any]


def compared(records: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """Every two systems, in their order.

    Args:
        records: of each system, all questions in order.

    Returns:
        ``system``, ``other``, ``score``, ``value`` (the difference), ``low``, ``high``, ``p`` and ``questions`` of each
        pair that answered questions in common.
    """
    found = []
    for one, other in combinations(records, 2):
        score = next((name for name in COMPARED if any(name in record.scores for record in records[one])), COMPARED[0])
        both = [
            (a.scores[score], b.scores[score], a.cluster)
            for a, b in zip(records[one], records[other], strict=True)
            if score in a.scores and score in b.scores
        ]
        if not both:
            continue
        ours, theirs, clusters = (list(column) for column in zip(*both, strict=True))
        interval = difference_interval(ours, theirs, clusters)
        found.append(
            {
                "system": one,
                "other": other,
                "score": score,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "p": paired_p(ours, theirs, clusters),
                "questions": len(both),
            }
        )
    return found


def header(summary: Summary) -> list[str]:
    """The titles of the columns; nothing where fewer than three systems leave nothing to add."""
    pairs = summary.get("pairs") or []
    names = list(summary["systems"])
    if len(names) < 3 or not pairs:
        return []
    return [f"{TITLES[pairs[0]['score']]}, row - column (p)", *names[1:]]


def rows(summary: Summary) -> list[list[str]]:
    """A row for each system but the last, against those after it."""
    if not header(summary):
        return []
    cells = {(pair["system"], pair["other"]): shown(pair["value"], pair["p"]) for pair in summary["pairs"]}
    names = list(summary["systems"])
    return [[one, *(cells.get((one, other), "") for other in names[1:])] for one in names[:-1]]


def shown(difference: float, p: float) -> str:
    """As the tables show a difference and its p-value."""
    return f"{difference:+.3f} ({'<0.001' if p < 0.001 else f'{p:.3f}'})"


def terminal(summary: Summary) -> Table | None:
    """For a terminal; None where there is nothing to show."""
    titles = header(summary)
    if not titles:
        return None
    table = Table(title="any two systems, paired by question", title_justify="left")
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows(summary):
        table.add_row(*map(Text, row))
    return table

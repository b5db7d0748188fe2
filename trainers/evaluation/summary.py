"""The records of one evaluation as figures: means with intervals, comparisons, costs; plain values, ready for JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import mean
from typing import Any

from rich.table import Table
from rich.text import Text

from trainers.evaluation.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    paired_p,
    retained_interval,
)
from trainers.evaluation.measuring import PHASES
from trainers.evaluation.metrics import ranking_scores
from trainers.evaluation.records import Record

COMPARED = ("f1", "rougeL")
TITLES = {"f1": "F1", "rougeL": "ROUGE-L"}
Summary = dict[str, Any]


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


def pairs_header(summary: Mapping[str, Any]) -> list[str]:
    """The titles of the columns; nothing where fewer than three systems leave nothing to add."""
    pairs = summary.get("pairs") or []
    names = list(summary["systems"])
    if len(names) < 3 or not pairs:
        return []
    return [f"{TITLES[pairs[0]['score']]}, row - column (p)", *names[1:]]


def pairs_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row for each system but the last, against those after it."""
    if not pairs_header(summary):
        return []
    cells = {(pair["system"], pair["other"]): pairs_shown(pair["value"], pair["p"]) for pair in summary["pairs"]}
    names = list(summary["systems"])
    return [[one, *(cells.get((one, other), "") for other in names[1:])] for one in names[:-1]]


def pairs_shown(difference: float, p: float) -> str:
    """As the tables show a difference and its p-value."""
    return f"{difference:+.3f} ({'<0.001' if p < 0.001 else f'{p:.3f}'})"


def pairs_terminal(summary: Mapping[str, Any]) -> Table | None:
    """For a terminal; None where there is nothing to show."""
    titles = pairs_header(summary)
    if not titles:
        return None
    table = Table(title="any two systems, paired by question", title_justify="left")
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number == 0 else "right", overflow="fold")
    for row in pairs_rows(summary):
        table.add_row(*map(Text, row))
    return table


OURS, TEXT, CLOSED = "clara", "text", "closed"
NOT_READ = "not read"


def summarize(
    records: Mapping[str, Sequence[Record]], *, once: float | None = None, known_only: bool = False
) -> Summary:
    """Everything that the tables and the report show.

    Args:
        records: of each system, all questions in order.
        once: seconds of compressing the documents, as for the break-even.
        known_only: as for `ranking_scores`.

    Returns:
        ``questions``, ``clusters``, ``break_even``, ``pairs`` (`pairs.compared`) and, by name, ``systems``.
    """
    first = next(iter(records.values()))
    found = {name: _system(some, known_only) for name, some in records.items()}
    for name, some in records.items():
        found[name]["retained_f1"] = _retained(some, records.get(TEXT), records.get(CLOSED))
        found[name]["against_clara"] = _against(some, records.get(OURS)) if name != OURS else None
    return {
        "questions": len(first),
        "clusters": len({one.cluster for one in first}),
        "systems": found,
        "break_even": _break_even(found, once),
        "pairs": compared(records),
    }


def _system(records: Sequence[Record], known_only: bool) -> Summary:
    answered = [one for one in records if not one.failed]
    ranked = [one for one in answered if one.ranking]
    values = [{**one.scores} for one in answered]
    places = {one.number: place for place, one in enumerate(answered)}
    for one, scores in zip(ranked, ranking_scores(ranked, known_only=known_only), strict=True):
        values[places[one.number]] |= scores
    names = dict.fromkeys(name for one in values for name in one)
    return {
        "answered": len(answered),
        "failed": [one.source or f"question {one.number}" for one in records if one.failed],
        "metrics": {name: asdict(_mean(name, values, answered)) for name in names},
        "seconds": _means([one.seconds for one in answered]),
        "peak_bytes": {
            phase: max(one.peak_bytes.get(phase, 0) for one in answered)
            for phase in PHASES
            if any(phase in one.peak_bytes for one in answered)
        },
        "prompt_tokens": mean(one.prompt_tokens for one in answered) if answered else 0,
        "text_tokens": mean(one.text_tokens for one in answered) if answered else 0,
        "completion_tokens": mean(one.completion_tokens for one in answered) if answered else 0,
        "left_out": sum(one.left_out for one in answered),
        "cut_short": sum(one.finish_reason == "length" for one in answered),
        "by_place": _by_place(answered),
    }


def _mean(name: str, values: Sequence[Mapping[str, float]], records: Sequence[Record]) -> Interval:
    having = [(one[name], record.cluster) for one, record in zip(values, records, strict=True) if name in one]
    return mean_interval([value for value, _ in having], [cluster for _, cluster in having])


def _means(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds a question, by phase."""
    named = [phase for phase in PHASES if any(phase in one for one in costs)]
    return {phase: mean(one.get(phase, 0.0) for one in costs) for phase in named}


def _paired(name: str, *systems: Sequence[Record]) -> tuple[list[list[float]], list[str]]:
    """One score of several systems on the questions that all of them answered, and their clusters."""
    rows = [row for row in zip(*systems, strict=True) if not any(one.failed or name not in one.scores for one in row)]
    return [[row[i].scores[name] for row in rows] for i in range(len(systems))], [row[0].cluster for row in rows]


def _retained(
    records: Sequence[Record], text: Sequence[Record] | None, closed: Sequence[Record] | None
) -> Summary | None:
    if text is None or closed is None:
        return None
    (ours, theirs, nothing), clusters = _paired("f1", records, text, closed)
    found = retained_interval(ours, theirs, nothing, clusters) if clusters else None
    return None if found is None else asdict(found)


def _against(records: Sequence[Record], ours: Sequence[Record] | None) -> Summary | None:
    """How much better or worse than the checkpoint on the same questions, and the chance of that by luck."""
    if ours is None:
        return None
    found = {}
    for name in dict.fromkeys(name for one in records for name in one.scores):
        (theirs, own), clusters = _paired(name, records, ours)
        if clusters:
            difference = difference_interval(theirs, own, clusters)
            found[name] = {**asdict(difference), "p": paired_p(theirs, own, clusters), "questions": len(clusters)}
    return found


def _by_place(records: Sequence[Record]) -> dict[str, Summary]:
    """Exact match by the place among what was read of the first gold document, from 1."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for one in records:
        if one.positives and one.read and "em" in one.scores:
            place = next((n for n, document in enumerate(one.read, start=1) if document in one.positives), None)
            scores[NOT_READ if place is None else str(place)].append(one.scores["em"])
    order = sorted(scores, key=lambda place: (place == NOT_READ, int(place) if place != NOT_READ else 0))
    return {place: {"em": mean(scores[place]), "questions": len(scores[place])} for place in order}


def _break_even(systems: Mapping[str, Summary], once: float | None) -> Summary | None:
    """After how many questions to the same documents compressing them once has cost less than reading them as text.

    Args:
        systems: with their seconds a question.
        once: seconds of compressing what one question is offered, or the corpus; None where that is not known.

    Returns:
        None without the systems ``clara`` and ``text``; ``questions`` is None where latents are no quicker than text.
    """
    if OURS not in systems or TEXT not in systems:
        return None
    ours, text = systems[OURS]["seconds"], systems[TEXT]["seconds"]
    warm = sum(ours.get(phase, 0.0) for phase in ("query", "rank", "generate"))
    saved = text.get("generate", 0.0) - warm
    questions = once / saved if once is not None and saved > 0 else None
    return {"once": once, "warm": warm, "text": text.get("generate", 0.0), "questions": questions}

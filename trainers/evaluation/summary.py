"""The records of one evaluation as figures: means with intervals, comparisons, costs; plain values, ready for JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import mean
from typing import Any

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
"""What systems are compared by: the first that they have."""
OURS, TEXT, CLOSED = "clara", "text", "closed"
NOT_READ = "not read"
TOKENS = ("prompt_tokens", "text_tokens", "completion_tokens")
Summary = dict[str, Any]


def summarize(
    records: Mapping[str, Sequence[Record]], *, once: float | None = None, known_only: bool = False
) -> Summary:
    """Everything that the tables and the report show.

    Args:
        records: of each system, all questions in order.
        once: seconds of compressing the documents, as for the break-even.
        known_only: as for `ranking_scores`.

    Returns:
        ``questions``, ``clusters``, ``break_even``, ``pairs`` and, by name, ``systems``.
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
        "pairs": _pairs(records),
    }


def _pairs(records: Mapping[str, Sequence[Record]]) -> list[Summary]:
    """Every two systems that answered questions in common: the difference with its interval, and its p-value."""
    found = []
    for one, other in combinations(records, 2):
        score = next((name for name in COMPARED if any(name in record.scores for record in records[one])), COMPARED[0])
        compared = _compared(score, records[one], records[other])
        if compared is not None:
            found.append({"system": one, "other": other, "score": score, **compared})
    return found


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
        "seconds": _by_phase(mean, [one.seconds for one in answered]),
        "peak_bytes": _by_phase(max, [one.peak_bytes for one in answered]),
        **{name: mean(getattr(one, name) for one in answered) if answered else 0 for name in TOKENS},
        "left_out": sum(one.left_out for one in answered),
        "cut_short": sum(one.finish_reason == "length" for one in answered),
        "by_place": _by_place(answered),
    }


def _by_phase(of: Callable[..., float], costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    named = [phase for phase in PHASES if any(phase in one for one in costs)]
    return {phase: of(one.get(phase, 0) for one in costs) for phase in named}


def _mean(name: str, values: Sequence[Mapping[str, float]], records: Sequence[Record]) -> Interval:
    having = [(one[name], record.cluster) for one, record in zip(values, records, strict=True) if name in one]
    return mean_interval([value for value, _ in having], [cluster for _, cluster in having])


def _paired(name: str, *systems: Sequence[Record]) -> tuple[list[list[float]], list[str]]:
    """One score of several systems on the questions that all of them answered, and their clusters."""
    rows = [row for row in zip(*systems, strict=True) if not any(one.failed or name not in one.scores for one in row)]
    return [[row[i].scores[name] for row in rows] for i in range(len(systems))], [row[0].cluster for row in rows]


def _compared(name: str, records: Sequence[Record], others: Sequence[Record]) -> Summary | None:
    """How much better one system is than another on the same questions, and the chance of that by luck."""
    (ours, theirs), clusters = _paired(name, records, others)
    if not clusters:
        return None
    difference = asdict(difference_interval(ours, theirs, clusters))
    return {**difference, "p": paired_p(ours, theirs, clusters), "questions": len(clusters)}


def _retained(
    records: Sequence[Record], text: Sequence[Record] | None, closed: Sequence[Record] | None
) -> Summary | None:
    if text is None or closed is None:
        return None
    (ours, theirs, nothing), clusters = _paired("f1", records, text, closed)
    found = retained_interval(ours, theirs, nothing, clusters) if clusters else None
    return None if found is None else asdict(found)


def _against(records: Sequence[Record], ours: Sequence[Record] | None) -> Summary | None:
    """Against the checkpoint, by every score."""
    if ours is None:
        return None
    names = dict.fromkeys(name for one in records for name in one.scores)
    return {name: found for name in names if (found := _compared(name, records, ours)) is not None}


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

    ``once``: seconds of compressing what one question is offered, or the corpus; None where that is not known. None
    without the systems ``clara`` and ``text``; ``questions`` is None where latents are no quicker than text.
    """
    if OURS not in systems or TEXT not in systems:
        return None
    ours, text = systems[OURS]["seconds"], systems[TEXT]["seconds"]
    warm = sum(ours.get(phase, 0.0) for phase in ("query", "rank", "generate"))
    saved = text.get("generate", 0.0) - warm
    questions = once / saved if once is not None and saved > 0 else None
    return {"once": once, "warm": warm, "text": text.get("generate", 0.0), "questions": questions}

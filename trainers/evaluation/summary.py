"""The records of one evaluation as figures: means with intervals, comparisons, costs; plain values, ready for JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from trainers.evaluation.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    paired_p,
    retained_interval,
)
from trainers.evaluation.meter import PHASES
from trainers.evaluation.pairs import compared
from trainers.evaluation.ranking_scores import ranking_scores
from trainers.evaluation.records import Record

OURS, TEXT, CLOSED = "clara", "text", "closed"
NOT_READ = "not read"
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

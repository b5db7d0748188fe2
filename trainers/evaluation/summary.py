"""The records of one evaluation as figures: means with intervals, comparisons, costs; plain values, ready for JSON.

Means have 95 % intervals by bootstrap, differences paired tests. Questions about the same documents are not
independent, so what is drawn, or swapped between two systems, is a *cluster* of questions: those with the same gold
documents, or the same candidates. Resampling is scipy's, with a fixed seed.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import mean
from typing import Any

import numpy as np

from trainers.evaluation.measuring import PHASES
from trainers.evaluation.metrics import ranking_scores
from trainers.evaluation.records import Record

COMPARED = ("f1", "rougeL")
"""What systems are compared by: the first that they have."""
OURS, TEXT, CLOSED = "clara", "text", "closed"
WRONG, SHUFFLED = "wrong", "shuffled"
CONTROLS = (WRONG, SHUFFLED)
"""What `OURS` is measured against, not a rival."""
NOT_READ = "not read"
TOKENS = ("prompt_tokens", "text_tokens", "completion_tokens")
Summary = dict[str, Any]
Recorded = Mapping[str, Sequence[Record]]
"""The records of each system."""


def summarize(
    records: Recorded, *, once: float | None = None, known_only: bool = False, corpus: bool = False
) -> Summary:
    """Everything that the tables and the report show, of each system's records of all questions in order.

    ``once``: seconds of compressing the documents, for the break-even; ``known_only``: as for `ranking_scores`;
    ``corpus``: the questions search one, so that a record does not name every passage that was scored.
    """
    first = next(iter(records.values()))
    found = {name: _system(some, known_only) for name, some in records.items()}
    for name, some in records.items():
        found[name]["read_from_memory"] = _read_from_memory(name, records)
        found[name]["pairs_per_second"] = None if corpus else _pairs_per_second(some)
        found[name]["retained_f1"] = _retained(some, records.get(TEXT), records.get(CLOSED))
        found[name]["against_clara"] = _against(some, records.get(OURS)) if name != OURS else None
    return {
        "questions": len(first),
        "clusters": len({one.cluster for one in first}),
        "systems": found,
        "break_even": _break_even(found, once),
        "pairs": _pairs(records),
    }


def _pairs(records: Recorded) -> list[Summary]:
    """Every two systems that answered questions in common: the difference with its interval, and its p-value."""
    found = []
    for one, other in combinations([name for name in records if kind_of(name) not in CONTROLS], 2):
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


def kind_of(name: str) -> str:
    """A system's name without the number or model behind it."""
    return name.partition(":")[0]


def _read_from_memory(name: str, records: Recorded) -> Summary | None:
    """F1 from the right latents less F1 from another question's, the same passages read as text; else None."""
    wrong = records.get(WRONG + name.removeprefix(OURS)) if kind_of(name) == OURS else None
    return None if wrong is None else _compared("f1", records[name], wrong)


def _pairs_per_second(records: Sequence[Record]) -> float | None:
    """Passages scored against a question in a second, what is made of the passages alone made before; None of none."""
    ranked = [one for one in records if one.ranking and "rank" in one.seconds]
    seconds = sum(one.seconds[phase] for one in ranked for phase in ("query", "rank") if phase in one.seconds)
    return sum(len(one.order) for one in ranked) / seconds if seconds else None


def _retained(
    records: Sequence[Record], text: Sequence[Record] | None, closed: Sequence[Record] | None
) -> Summary | None:
    if text is None or closed is None:
        return None
    (ours, theirs, nothing), clusters = _paired("f1", records, text, closed)
    found = retained_interval(ours, theirs, nothing, clusters) if clusters else None
    return None if found is None else asdict(found)


def _against(records: Sequence[Record], ours: Sequence[Record] | None) -> Summary | None:
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
    order = sorted(scores, key=lambda place: (place == NOT_READ, len(place), place))
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


CONFIDENCE = 0.95
RESAMPLES = 2000
PERMUTATIONS = 9999
SEED = 20_251
Array = np.ndarray


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval, which are None where there are fewer than two clusters."""

    value: float
    low: float | None = None
    high: float | None = None


def mean_interval(values: Sequence[float], clusters: Sequence[str]) -> Interval:
    """The mean of one value for each question, at least one; ``clusters`` are theirs."""
    sums_C, counts_C = _by_cluster([values, [1.0] * len(values)], clusters)
    return _interval(lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis), (sums_C, counts_C))


def difference_interval(ours: Sequence[float], theirs: Sequence[float], clusters: Sequence[str]) -> Interval:
    """The mean of the differences between two systems on the same questions."""
    return mean_interval([a - b for a, b in zip(ours, theirs, strict=True)], clusters)


def retained_interval(
    system: Sequence[float], text: Sequence[float], closed: Sequence[float], clusters: Sequence[str]
) -> Interval | None:
    """``(system - closed) / (text - closed)`` of means: what is kept of what reading text gains; None of no gain."""
    if not sum(text) - sum(closed) > 0:
        return None

    def retained(ours: Array, theirs: Array, nothing: Array, axis: int) -> Array:
        gained = theirs.sum(axis) - nothing.sum(axis)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gained > 0, (ours.sum(axis) - nothing.sum(axis)) / gained, np.nan)

    return _interval(retained, _by_cluster([system, text, closed], clusters))


def paired_p(ours: Sequence[float], theirs: Sequence[float], clusters: Sequence[str]) -> float:
    """Two-sided p-value that two systems are equally good: which of them a cluster's answers are from is drawn anew."""
    from scipy import stats

    a_C, b_C = _by_cluster([ours, theirs], clusters)
    if np.allclose(a_C, b_C):
        return 1.0
    found = stats.permutation_test(
        (a_C, b_C),
        lambda a, b, axis: (a - b).sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=1000,
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def _interval(statistic: Callable[..., Array], parts: Sequence[Array]) -> Interval:
    value = float(statistic(*parts, axis=0))
    if len(parts[0]) < 2:
        return Interval(value)
    from scipy import stats

    with warnings.catch_warnings():  # draws in which text gains nothing are no number, and are left out below
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn: Any = stats.bootstrap(
            tuple(parts),
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=RESAMPLES,
            batch=500,
            confidence_level=CONFIDENCE,
            rng=np.random.default_rng(SEED),
        )
    draws = drawn.bootstrap_distribution[np.isfinite(drawn.bootstrap_distribution)]
    if not len(draws):
        return Interval(value)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def _by_cluster(columns: Sequence[Sequence[float]], clusters: Sequence[str]) -> list[Array]:
    """Each column summed by cluster, clusters in order of first appearance."""
    place = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    index = np.array([place[cluster] for cluster in clusters])
    return [np.bincount(index, weights=np.asarray(one, dtype=np.float64), minlength=len(place)) for one in columns]

"""How far a mean may be trusted: 95 % intervals by bootstrap over documents or pools, and paired tests.

Questions about the same documents are not independent, so what is drawn, or swapped between two systems, is a *cluster*
of questions: those with the same gold documents, or the same candidates. Resampling is scipy's, with a fixed seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """``(system - closed) / (text - closed)`` of means: what is kept of what reading the text gains.

    Returns:
        None where text gains nothing over answering without any.
    """
    parts = _by_cluster([system, text, closed], clusters)

    def retained(ours: Array, theirs: Array, nothing: Array, axis: int) -> Array:
        gained = theirs.sum(axis) - nothing.sum(axis)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gained > 0, (ours.sum(axis) - nothing.sum(axis)) / gained, np.nan)

    if not sum(text) - sum(closed) > 0:
        return None
    return _interval(retained, parts)


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
    draws = drawn.bootstrap_distribution
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Interval(value)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def _by_cluster(columns: Sequence[Sequence[float]], clusters: Sequence[str]) -> list[Array]:
    """Each column summed by cluster, clusters in order of first appearance."""
    place = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    index = np.array([place[cluster] for cluster in clusters])
    return [
        np.bincount(index, weights=np.asarray(column, dtype=np.float64), minlength=len(place)) for column in columns
    ]

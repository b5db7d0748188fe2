"""The coarse scan: which blocks of an index are nearest to a question, by signs first and then by bytes.

Half of all signs is read (exact, no graph, nothing to train); those that share most are counted by all their signs, and
the thousands nearest by these are scored by their bytes. Leaves out the exact score (`search.find`).
Shapes: ``N`` blocks, ``R`` numbers of a rotation, ``S`` directions, ``W`` words of 64 bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clara_model.search.index import PART, CoarseIndex, Reach
from clara_model.search.sketch import WORDS, Array

FIRST = 8192
"""Blocks that the signs let through, at least, and as many times over as candidates are asked for."""
PER_CANDIDATE = 8
WIDE = 8
"""As many times more are let through by half of their signs, where there are more blocks than that."""
_HALF = WORDS // 2
_CHUNK = 8192
"""Rows at once: their words stay in a CPU's second cache."""
_SAMPLED = 97
"""One row in so many says which distance lets enough through."""


def nearest(index: CoarseIndex, reach: Reach, rotation_R: Array, count: int, allowed: Array | None = None) -> Array:
    """The numbers of the blocks whose short vectors are nearest to a question's, best first.

    Args:
        index: of the store.
        reach: of the index.
        rotation_R: the question's.
        count: how many.
        allowed: block numbers, rising, that alone may be returned; all by default.
    """
    if not reach.count:
        return np.empty(0, dtype=np.int64)
    numbers = index.numbers(reach)
    directions = index.directions(reach)
    question = directions.question(rotation_R)
    places = None if allowed is None else np.flatnonzero(np.isin(numbers, allowed, assume_unique=True))
    first = max(FIRST, PER_CANDIDATE * count)
    if (reach.count if places is None else len(places)) > first:
        places = _nearest_by_signs(index, reach, directions.words(question[None]), first, places)
    elif places is None:
        places = np.arange(reach.count)
    scores = _scores(index, reach, question, places)
    return np.asarray(numbers[places[np.argsort(-scores, kind="stable")[:count]]])


def _nearest_by_signs(index: CoarseIndex, reach: Reach, words_W1: Array, count: int, places: Array | None) -> Array:
    """The places, rising, that share most signs with the question: ``count`` or a few more of ``places``, or of all."""
    total = reach.count if places is None else len(places)
    if total <= WIDE * count:
        distances = _distances(index, reach, words_W1) if places is None else _at(index, reach, words_W1, places)
        found = _smallest(distances, count)
        return found if places is None else places[found]
    half_N = _distances(index, reach, words_W1[:_HALF])
    wide = _smallest(half_N if places is None else half_N[places], WIDE * count)
    places = wide if places is None else places[wide]
    distances = half_N[places] + _at(index, reach, words_W1[_HALF:], places, _HALF)
    return places[_smallest(distances, count)]


def _distances(index: CoarseIndex, reach: Reach, words_W1: Array) -> Array:
    """``[N]`` signs in which each block differs from the question, in as many words as are given."""
    out = np.empty(reach.count, dtype=np.uint16)
    words = len(words_W1)

    def scan(part: int, words_WN: Array) -> None:
        for start in range(0, words_WN.shape[1], _CHUNK):
            differing = np.bitwise_count(np.bitwise_xor(words_WN[:words, start : start + _CHUNK], words_W1))
            place = part * PART + start
            np.add.reduce(differing, axis=0, dtype=np.uint16, out=out[place : place + differing.shape[1]])

    _side_by_side(scan, list(enumerate(index.signs(reach))))
    return out


def _at(index: CoarseIndex, reach: Reach, words_W1: Array, places: Array, first_word: int = 0) -> Array:
    """`_distances` of some places, rising, in the words from ``first_word`` on."""
    out = np.empty(len(places), dtype=np.uint16)
    words = slice(first_word, first_word + len(words_W1))

    def count(part: int, words_WN: Array) -> None:
        start, end = np.searchsorted(places, (part * PART, (part + 1) * PART))
        chosen = words_WN[words].take(places[start:end] - part * PART, axis=1)
        differing = np.bitwise_count(np.bitwise_xor(chosen, words_W1))
        np.add.reduce(differing, axis=0, dtype=np.uint16, out=out[start:end])

    _side_by_side(count, list(enumerate(index.signs(reach))))
    return out


def _scores(index: CoarseIndex, reach: Reach, question_S: Array, places: Array) -> Array:
    """Products of some blocks' bytes and the question."""
    whole_NS, scales_N = index.bytes(reach)
    out = np.empty(len(places), dtype=np.float32)

    def score(start: int, end: int) -> None:
        chosen = places[start:end]
        np.multiply(whole_NS[chosen].astype(np.float32) @ question_S, scales_N[chosen], out=out[start:end])

    _side_by_side(score, [(start, start + _CHUNK // 4) for start in range(0, len(places), _CHUNK // 4)])
    return out


def _side_by_side(work: Callable[..., None], parts: Sequence[tuple[Any, ...]]) -> None:
    """Some work, part by part on the process's CPU cores; NumPy lets go of the interpreter meanwhile."""
    if len(parts) < 2:
        for part in parts:
            work(*part)
        return
    with ThreadPoolExecutor(min(len(parts), len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(lambda part: work(*part), parts))


def _smallest(values: Array, count: int) -> Array:
    """The places of the smallest values: ``count`` of them or a few more, where equal ones are at the end."""
    sample = np.sort(values[::_SAMPLED])
    guess = min(len(sample) - 1, int(1.2 * count / _SAMPLED) + 2)
    found = np.flatnonzero(values <= sample[guess])
    if not count <= len(found) <= 3 * count:
        limit = np.searchsorted(np.cumsum(np.bincount(values)), count)
        found = np.flatnonzero(values <= limit)
    return found

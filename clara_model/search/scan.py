"""The coarse scan: which blocks of an index are nearest to a question, by signs first and then by bytes.

All signs are read (exact, no graph, nothing to train); the thousands that share most are scored by their bytes. Leaves
out the exact score (`search.find`).
Shapes: ``N`` blocks, ``R`` numbers of a rotation, ``S`` directions, ``W`` words of 64 bits.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clara_model.search.index import PART, CoarseIndex, Reach
from clara_model.search.sketch import Array

FIRST = 8192
"""Blocks that the signs let through, at least, and as many times over as candidates are asked for."""
PER_CANDIDATE = 8
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
        distances = _distances(index, reach, directions.words(question[None]))
        places = _smallest(distances, first, places)
    elif places is None:
        places = np.arange(reach.count)
    whole, scales = index.bytes(reach)
    scores = whole[places].astype(np.float32) @ question * scales[places]
    return np.asarray(numbers[places[np.argsort(-scores, kind="stable")[:count]]])


def _distances(index: CoarseIndex, reach: Reach, words_W1: Array) -> Array:
    """``[N]`` signs in which each block differs from the question; parts side by side on the process's CPU cores."""
    out = np.empty(reach.count, dtype=np.uint16)

    def scan(part: int, words_WN: Array) -> None:
        for start in range(0, words_WN.shape[1], _CHUNK):
            differing = np.bitwise_count(np.bitwise_xor(words_WN[:, start : start + _CHUNK], words_W1))
            place = part * PART + start
            np.add.reduce(differing, axis=0, dtype=np.uint16, out=out[place : place + differing.shape[1]])

    parts = list(enumerate(index.signs(reach)))
    if len(parts) == 1:
        scan(*parts[0])
        return out
    with ThreadPoolExecutor(min(len(parts), len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(lambda part: scan(*part), parts))
    return out


def _smallest(distances: Array, count: int, places: Array | None) -> Array:
    """The places of the smallest distances: ``count`` of them or a few more, where equal ones are at the end."""
    values = distances if places is None else distances[places]
    sample = np.sort(values[::_SAMPLED])
    guess = min(len(sample) - 1, int(1.2 * count / _SAMPLED) + 2)
    found = np.flatnonzero(values <= sample[guess])
    if not count <= len(found) <= 3 * count:
        limit = np.searchsorted(np.cumsum(np.bincount(values)), count)
        found = np.flatnonzero(values <= limit)
    return found if places is None else places[found]

"""The coarse scan: which blocks of an index are nearest to a question, by signs first and then by bytes.

All signs are read (exact, no graph, nothing to train), by faiss where it is installed (extra ``search``) and there are
many, else by NumPy; the thousands that share most are scored by their bytes. For late interaction the signs of every
slot are read, and each block's score is worked out from them.
Shapes: ``N`` blocks, ``R`` numbers of a rotation, ``S`` directions, ``G`` bytes of signs, ``M`` slots of ``D`` numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clara_model.modeling.ranking import worth
from clara_model.search.bm25 import largest
from clara_model.search.index import CoarseIndex, Reach
from clara_model.search.sketch import Array, slot_bits, slot_signs

FIRST = 8192
"""Blocks that the signs let through, at least, and as many times over as candidates are asked for."""
PER_CANDIDATE = 8
_ALONE = 100_000
"""Rows for which threads are not worth their start."""
_SAMPLED = 97
"""One row in so many says which distance lets enough through."""
_COUNTED_AT_ONCE = 8192
_SCORED_AT_ONCE = 1024
"""Rows at once: they stay in a CPU's second cache."""
_SLOTS_AT_ONCE = 65_536


def nearest(index: CoarseIndex, reach: Reach, rotation_R: Array, count: int, places: Array | None = None) -> Array:
    """The numbers of the blocks whose short vectors are nearest to a question's, best first.

    ``places`` are the rows of the index, rising, that alone may be returned; all by default.
    """
    if not reach.count:
        return np.empty(0, dtype=np.int64)
    numbers = index.numbers(reach)
    directions = index.directions(reach)
    question = directions.question(rotation_R)
    total = reach.count if places is None else len(places)
    first = max(FIRST, PER_CANDIDATE * count)
    whole_NS, scales_N = index.bytes(reach)
    cores = 1 if total <= _ALONE else torch.get_num_threads()
    with ThreadPoolExecutor(cores, initializer=_alone) as pool:  # starts no thread before it is given something to do
        side_by_side = map if cores == 1 else pool.map
        if total > first:
            signs_NG = index.signs(reach)
            asked = directions.question_signs(question)
            places = _nearest_by_signs(signs_NG, asked, first, places, cores, side_by_side)
        elif places is None:
            places = np.arange(total)
        shares = np.array_split(places, cores)
        scores = np.concatenate(list(side_by_side(lambda share: _scores(whole_NS, scales_N, question, share), shares)))
    return np.asarray(numbers[places[largest(scores, count)]])


def nearest_by_slots(
    index: CoarseIndex, reach: Reach, question_MD: Tensor, count: int, places: Array | None = None
) -> Array:
    """The numbers of the blocks with the highest late interaction as their slots' signs tell it, as `nearest`."""
    if not reach.count:
        return np.empty(0, dtype=np.int64)
    numbers = index.numbers(reach)
    few = places is not None and 2 * len(places) < reach.count  # of many, all are compared: a copy takes longer
    signs_NMG = index.slots(reach)[places] if few else index.slots(reach)
    asked = question_MD[question_MD.any(dim=-1)]
    asked_QG, weights_Q = slot_signs(asked[:, None])[:, 0], asked.float().norm(dim=-1).numpy()
    bits = slot_bits(question_MD.shape[1])
    worths = worth(torch.cos(torch.pi * torch.arange(bits + 1) / bits)).numpy()
    cores = 1 if signs_NMG.shape[0] * signs_NMG.shape[1] <= _ALONE else torch.get_num_threads()
    with ThreadPoolExecutor(cores, initializer=_alone) as pool:
        shares = np.array_split(signs_NMG, cores)
        scores = np.concatenate(list(pool.map(lambda share: _late(share, asked_QG, weights_Q, worths), shares)))
    if places is not None and not few:
        scores = scores[places]
    best = largest(scores, count)
    return np.asarray(numbers[best if places is None else places[best]])


def _late(signs_NMG: Array, asked_QG: Array, weights_Q: Array, worths: Array) -> Array:
    """Late interaction ``[N]`` of blocks, but for the division by the weights' sum."""
    blocks, slots, size = signs_NMG.shape
    out = np.zeros(blocks, dtype=np.float32)
    at_once = max(1, _SLOTS_AT_ONCE // slots)
    for start in range(0, blocks, at_once):
        rows = signs_NMG[start : start + at_once].reshape(-1, size)
        differing = np.empty(len(rows), dtype=np.int32)
        for asked_G, weight in zip(asked_QG, weights_Q, strict=True):
            distances(rows, asked_G[None], differing)
            out[start : start + at_once] += weight * worths[differing.reshape(-1, slots).min(axis=1)]
    return out


def _nearest_by_signs(
    signs_NG: Array,
    question_1G: Array,
    count: int,
    places: Array | None,
    cores: int,
    side_by_side: Callable[..., Iterable[Any]],
) -> Array:
    """The rows among ``places``, rising, that share most signs with the question: ``count`` or a few more."""
    few = places is not None and 2 * len(places) < len(signs_NG)
    if few:
        signs_NG = signs_NG[places]
    differing = np.empty(len(signs_NG), dtype=np.int32)
    bounds = np.linspace(0, len(signs_NG), cores + 1).astype(int)
    shares = [slice(*pair) for pair in pairwise(bounds)]
    list(side_by_side(lambda share: distances(signs_NG[share], question_1G, differing[share]), shares))
    if places is None:
        return _smallest(differing, count)
    return places[_smallest(differing if few else differing[places], count)]


def distances(signs_NG: Array, question_1G: Array, out_N: Array) -> None:
    """How many signs of each block differ from the question's, into ``out_N``, int32."""
    faiss = _faiss() if len(signs_NG) > _ALONE // 2 else None
    if faiss is not None:
        signs, question, out = map(faiss.swig_ptr, (signs_NG, question_1G, out_N))
        faiss.hammings(question, signs, 1, *signs_NG.shape, out)
        return
    question = question_1G.view(np.uint64)
    for start in range(0, len(signs_NG), _COUNTED_AT_ONCE):
        words = signs_NG[start : start + _COUNTED_AT_ONCE].view(np.uint64)
        np.bitwise_count(words ^ question).sum(axis=1, dtype=np.int32, out=out_N[start : start + len(words)])


def _smallest(values: Array, count: int) -> Array:
    """The places of the smallest values: ``count`` of them or a few more; a sample says where they end."""
    sample = np.sort(values[::_SAMPLED])
    guess = min(len(sample) - 1, int(1.2 * count / _SAMPLED) + 2)
    found = np.flatnonzero(values <= sample[guess])
    return found if count <= len(found) <= 2 * count else np.sort(np.argpartition(values, count)[:count])


def _scores(whole_NS: Array, scales_N: Array, question_S: Array, places: Array) -> Array:
    """Products of some blocks' bytes and the question; not by BLAS, whose threads take longer to wake than this."""
    out = np.empty(len(places), dtype=np.float32)
    for start in range(0, len(places), _SCORED_AT_ONCE):
        chosen = places[start : start + _SCORED_AT_ONCE]
        np.einsum("ns,s->n", whole_NS[chosen], question_S, out=out[start : start + len(chosen)])
    return out * scales_N[places]


@cache
def _faiss() -> Any:
    """The library, or None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _alone() -> None:
    """This thread computes by itself; the setting is a thread's own."""
    if _faiss() is not None:
        _faiss().omp_set_num_threads(1)

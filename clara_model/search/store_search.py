"""Search in a store: the coarse index's best few hundred, scored exactly on whole latents.

The score is the checkpoint's, the same number that ranking gives. Where words have a weight, the best by words are
scored too, and a word counts by how rare it is in the store.
Shapes: ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from clara_model.defaults import cache_folder
from clara_model.errors import ClaraError, shown
from clara_model.latents import Latents
from clara_model.modeling.ranking import SCORES
from clara_model.search.index import CoarseIndex, Moved, Reach
from clara_model.search.scan import nearest, nearest_by_slots
from clara_model.search.sketch import Array, rotation
from clara_model.search.words import WordIndex
from clara_model.store.protocol import DurableStore, Row, Where
from clara_model.windows import Window

logger = logging.getLogger(__name__)

CANDIDATES = 200
"""Blocks that are scored exactly, at least; four times as many as are asked for, where that is more."""
PER_RESULT = 4
BY_WORDS = 50
"""Blocks that are looked for by words, at least; four times as many as are asked for, where that is more."""
LATE = 2
"""Times as many for late interaction, which signs tell less exactly (docs/experiments/late-interaction-search.md)."""
_WIDER = 4
"""Times as many are looked at where too few could be scored."""
_TURNS = 5
"""Times that a search starts anew because the store or its index has changed under it."""
_AT_ONCE = 64
"""Whole blocks in memory at a time."""


@dataclass(frozen=True, eq=False)
class Scored:
    """A block of a store and its score for the question."""

    row: Row
    score: float
    latents: float
    """Of the score, what the latents give."""
    words: float | None = None
    """The share of the question's words that its text holds; None where words are not looked at."""


class StoreSearch:
    """Search in one store. Thread-safe."""

    def __init__(self, store: DurableStore, ranking: str = "cosine", word_weight: float = 0.0) -> None:
        """The index is opened, and brought up to date, when first needed.

        ``ranking`` is the checkpoint's; ``word_weight`` is what a text's share of the question's words counts, 0 for
        nothing.
        """
        self.store, self.ranking, self._word_weight = store, ranking, word_weight
        self._index: CoarseIndex | None = None
        self._found_some = False
        self._words: WordIndex | None = None
        self._lock = Lock()

    def best(self, question_MD: Tensor, top_k: int, where: Where | None = None, question: str = "") -> list[Scored]:
        """The blocks with the highest score, best first; equal ones in the order they were added.

        ``where`` bounds the documents that may be found; the ``question`` itself counts where words have a weight.
        """
        for turn in range(_TURNS):
            generation = self.store.generation
            try:
                found = self._best(question_MD, top_k, where, question)
            except Moved:
                if turn == _TURNS - 1:
                    raise ClaraError(f"the search index of {self.store.url} is built anew all the time") from None
                continue
            if len(found) == top_k or generation == self.store.generation:
                break  # else blocks have gone, or got other numbers, in between
        return found

    def _best(self, question_MD: Tensor, top_k: int, where: Where | None, question: str) -> list[Scored]:
        index, reach, places = self._ready()
        allowed = None if where is None else self.store.matching(where)
        if allowed is not None:
            numbers = np.array(allowed, dtype=np.int64)
            places = np.flatnonzero(np.isin(index.numbers(reach), numbers, assume_unique=True)) if reach.count else None
        count = max(CANDIDATES, PER_RESULT * top_k)
        scored: list[Scored] = []
        seen: Array = np.empty(0, dtype=np.int64)
        while True:
            if self.ranking == "late":
                numbers = nearest_by_slots(index, reach, question_MD, LATE * count, places)
            else:
                numbers = nearest(index, reach, rotation(question_MD[None])[0], count, places)
            fresh = numbers[~np.isin(numbers, seen)] if len(seen) else numbers
            scored += self._exact(question_MD, fresh.tolist())
            if len(scored) >= top_k or len(fresh) == 0 or len(numbers) < count:
                break
            count, seen = _WIDER * count, numbers  # damaged ones, or gone this moment: look further
        if self._word_weight and question:
            if self._words is None or self._words.folder != index.folder:
                self._words = WordIndex(index.folder, self.store)
            found, rarity = self._words.find(question, max(BY_WORDS, PER_RESULT * top_k), allowed)
            known = {one.row.number for one in scored}
            scored += self._exact(question_MD, [number for number in found if number not in known])
            shares = rarity.shares(question, [one.row.block.text or "" for one in scored])
            scored = [
                replace(one, score=one.latents + self._word_weight * share, words=share)
                for one, share in zip(scored, shares, strict=True)
            ]
        return sorted(scored, key=lambda one: (-one.score, one.row.number))[:top_k]

    def _exact(self, question_MD: Tensor, numbers: list[int]) -> list[Scored]:
        """The blocks with these numbers, without those that are gone, by their whole latents."""
        scored: list[Scored] = []
        for start in range(0, len(numbers), _AT_ONCE):
            if rows := self.store.rows(numbers[start : start + _AT_ONCE]):
                vectors_KMD = torch.stack([row.block.vector for row in rows])
                scores_K = SCORES[self.ranking](question_MD[None], vectors_KMD)[0].tolist()
                scored += map(Scored, rows, scores_K, scores_K)
        return scored

    def _ready(self) -> tuple[CoarseIndex, Reach, Array | None]:
        """The index, brought up to date, and which of its rows count; in the cache folder where there is no room."""
        with self._lock:
            if self.store.fingerprint is None and self._found_some:
                raise ClaraError(
                    f"{self.store.url} was emptied after it was opened here, and holds nothing to search; "
                    f"fill it again: clara compress FILE_OR_FOLDER --store {self.store.url}"
                )
            folders = [index_folder(self.store), _cached_folder(self.store)]
            for folder in folders if self._index is None else [self._index.folder, folders[1]]:
                try:
                    if self._index is None or self._index.folder != folder:
                        self._index = CoarseIndex(folder, self.store.identity, self.ranking)
                    reach = self._index.update(self.store)
                    self._found_some = self._found_some or reach.count > 0
                    return self._index, reach, self._index.places(self.store, reach)
                except ClaraError as error:
                    self._index = None
                    if folder == folders[1]:
                        raise
                    logger.warning("%s; the search index is kept in %s", error, folders[1])
        raise AssertionError("one of the folders is the last")

    def clear(self) -> None:
        """Forget the index: the store has been emptied."""
        folder = index_folder(self.store)
        if folder.exists():
            with closing(CoarseIndex(folder, self.store.identity, self.ranking)) as index:
                index.clear()
            WordIndex(folder, self.store).clear()

    def close(self) -> None:
        """Let go of the index's files; the store stays open."""
        with self._lock:
            if self._index is not None:
                self._index.close()
                self._index = None


def document_latents(store: DurableStore, fingerprint: str, document: str) -> Latents:
    """The latents of a document in a store, window by window, with their texts where these are kept.

    Raises:
        ClaraError: there is no such document, or a part of it has been lost.
    """
    places = store.find(document)
    blocks = [block for block in store.get(fingerprint, [place.key for place in places]) if block is not None]
    if not places or len(blocks) < len(places):
        what = "holds no document" if not places else "has lost a part of document"
        raise ClaraError(f"the store {what} {shown(document)}; add it, or give its text")
    windows = tuple(Window(document=0, number=one.number, start=one.start, end=one.end) for one in places)
    vectors = torch.stack([block.vector for block in blocks])
    texts = tuple(block.text for block in blocks if block.text is not None)
    lengths = tuple(block.length for block in blocks)
    return Latents(vectors, lengths, fingerprint, windows, texts if len(texts) == len(blocks) else None)


def index_folder(store: DurableStore) -> Path:
    """Beside a store's files where they are in a folder that can be written to, else in the user's cache folder."""
    folder = Path(store.url)
    if folder.is_dir() and os.access(folder, os.W_OK):
        return folder / "search"
    return _cached_folder(store)


def _cached_folder(store: DurableStore) -> Path:
    return cache_folder() / "search" / hashlib.sha256(store.identity.encode()).hexdigest()[:16]

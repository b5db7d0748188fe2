"""Search in a store: the coarse index's best few hundred, scored exactly on whole latents.

The score is the checkpoint's, the same number that ranking gives. Leaves out encoding the question
(`inference`). Shapes: ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from clara_model.errors import ClaraError, shown
from clara_model.latents import Latents
from clara_model.modeling.ranking import SCORES
from clara_model.search.index import CoarseIndex
from clara_model.search.scan import likest, nearest
from clara_model.search.sketch import Array, rotation
from clara_model.store.protocol import DurableStore, Row, Where
from clara_model.windows import Window

CANDIDATES = 200
"""Blocks that are scored exactly, at least; four times as many as are asked for, where that is more."""
PER_RESULT = 4
LATE = 2
"""Times as many for late interaction, which signs tell less exactly (docs/results.md)."""
_AT_ONCE = 64
"""Whole blocks in memory at a time."""


@dataclass(frozen=True, eq=False)
class Scored:
    """A block of a store and its score for the question."""

    row: Row
    score: float


class StoreSearch:
    """Search in one store. Thread-safe."""

    def __init__(self, store: DurableStore, ranking: str = "cosine") -> None:
        """The index is opened, and brought up to date, when first needed; the ranking is the checkpoint's."""
        self.store, self.ranking = store, ranking
        self._index: CoarseIndex | None = None
        self._lock = Lock()

    def best(self, question_MD: Tensor, top_k: int, where: Where | None = None) -> list[Scored]:
        """The blocks with the highest score, best first; equal ones in the order they were added.

        Args:
            question_MD: the question's latents.
            top_k: how many.
            where: metadata of the documents that may be found; all blocks by default.
        """
        with self._lock:
            if self._index is None:
                self._index = CoarseIndex(index_folder(self.store), self.store.identity, self.ranking)
            reach = self._index.update(self.store)
        allowed = None if where is None else self._allowed(where)
        count = max(CANDIDATES, PER_RESULT * top_k)
        if self.ranking == "late":
            numbers = likest(self._index, reach, question_MD, LATE * count, allowed)
        else:
            numbers = nearest(self._index, reach, rotation(question_MD[None])[0], count, allowed)
        scored: list[Scored] = []
        for start in range(0, len(numbers), _AT_ONCE):
            rows = self.store.rows(numbers[start : start + _AT_ONCE].tolist())
            if rows:
                vectors_KMD = torch.stack([row.block.vector for row in rows])
                scores_K = SCORES[self.ranking](question_MD[None], vectors_KMD)[0].tolist()
                scored += map(Scored, rows, scores_K)
        return sorted(scored, key=lambda one: (-one.score, one.row.number))[:top_k]

    def _allowed(self, where: Where) -> Array:
        keys = list(dict.fromkeys(place.key for place in self.store.find(where=where)))
        return np.sort(np.array(list(self.store.numbers(keys).values()), dtype=np.int64))

    def close(self) -> None:
        """Let go of the index's files; the store stays open."""
        with self._lock:
            if self._index is not None:
                self._index.close()
                self._index = None


def document_latents(store: DurableStore, fingerprint: str, document: str) -> tuple[Latents, list[str]]:
    """The latents of a document in a store, window by window, and the windows' texts (empty where none are kept).

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
    lengths = tuple(block.length for block in blocks)
    return Latents(vectors, lengths, fingerprint, windows), [block.text or "" for block in blocks]


def index_folder(store: DurableStore) -> Path:
    """Beside a store's files where they are in a folder that can be written to, else in the user's cache folder."""
    folder = Path(store.url)
    if folder.is_dir() and os.access(folder, os.W_OK):
        return folder / "search"
    name = hashlib.sha256(store.identity.encode()).hexdigest()[:16]
    return cache_folder() / "search" / name


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again: ``$XDG_CACHE_HOME/clara`` or ``~/.cache/clara``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clara"

"""Which passages are read for a question: as retrieved, by the checkpoint's latents, by BM25, by sentence-transformers.

A ranker orders the passages of each question's pool; of a whole corpus it gives the best `DEPTH`. Leaves out reading
(`evaluation.answerers`). The packages of the baselines are optional and imported when used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from clara_model.errors import ClaraError, needing
from clara_model.latents import Latents
from clara_model.modeling.ranking import scores_in_parts
from clara_model.search.bm25 import BM25
from clara_model.windows import content_key
from trainers.data.negatives import SentenceTransformersEncoder, unit
from trainers.evaluation.measuring import Meter
from trainers.evaluation.questions import Pool, Question

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

DEPTH = 50
"""Passages of a corpus that a ranker names."""
RERANKED = 100
"""Passages of a corpus, best by BM25, that a cross-encoder looks at."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """Passages of a question's pool, best first, and their latents where the ranker has made them."""

    order: list[int]
    latents: Latents | None = None
    """In the same order; at least as many as are read."""


class AsRetrieved:
    """The order of the file; in the oracle setting with the gold documents among the first."""

    name = "as retrieved"

    def __init__(self, top_k: int, *, gold: bool) -> None:
        """``gold``: gold documents that lie further back take the last of the first ``top_k`` places."""
        self.top_k, self.gold = top_k, gold

    def rank(self, questions: Sequence[Question], meter: Meter) -> list[Ranked]:
        """The passages of each question."""
        return [Ranked(self._order(question)) for question in questions]

    def _order(self, question: Question) -> list[int]:
        pool = question.pool
        if pool.shared:
            raise ClaraError("a corpus has no order of retrieval; leave out the system 'first'")
        places = list(range(len(pool.passages)))
        if not self.gold:
            return places
        gold = [place for place in places if pool.documents[place] in question.positives][: self.top_k]
        others = [place for place in places if place not in gold]
        first = sorted([*gold, *others[: self.top_k - len(gold)]])
        return [*first, *(place for place in places if place not in first)]


class ByLatents:
    """The checkpoint's own ranking: its score of the question's latents and each passage's."""

    name = "latents"

    def __init__(self, clara: Clara, encoder: str = "query_reasoner") -> None:
        """``encoder``: the role that reads questions; before stage 3 there is the ``compressor`` alone."""
        self.clara, self.encoder = clara, encoder
        self._places: dict[int, dict[str, int]] = {}

    def rank(self, questions: Sequence[Question], meter: Meter) -> list[Ranked]:
        """The passages of each question."""
        if questions[0].pool.shared:
            return [self._searched(question, meter) for question in questions]
        asked = [question.text for question in questions]
        with meter.phase("compress"):
            texts = {content_key(text): text for text in dict.fromkeys(t for q in questions for t in q.pool.passages)}
            latents = self.clara.call().latents(texts)  # a passage is one window
        place = {text: number for number, text in enumerate(texts.values())}
        with meter.phase("query"):
            ours = self.encoder == "compressor"
            queries = self.clara.compress(asked) if ours else self.clara.encode_queries(asked)
        with meter.phase("rank"):
            rows = [[place[text] for text in question.pool.passages] for question in questions]
            return [self._ranked(*one, latents) for one in zip(questions, queries.vectors, rows, strict=True)]

    def _ranked(self, question: Question, query_MD: Tensor, row: Sequence[int], latents: Latents) -> Ranked:
        """The passages of a row of blocks; equal texts are scored once, and stand in the order given."""
        used = {block: number for number, block in enumerate(dict.fromkeys(row))}
        ranking = self.clara.model.config.ranking
        (scores,) = scores_in_parts(query_MD[None], latents.vectors[list(used)], ranking=ranking).tolist()
        values = [scores[used[block]] for block in row]
        if weight := self.clara.shared.word_weight:
            shares = BM25(question.pool.passages).shares(question.text)
            values = [value + weight * share for value, share in zip(values, shares.tolist(), strict=True)]
        order = sorted(range(len(row)), key=lambda passage: -values[passage])
        return Ranked(order, latents[[row[passage] for passage in order]])

    def _searched(self, question: Question, meter: Meter) -> Ranked:
        pool = question.pool
        place = self._places.get(id(pool))
        if place is None:
            place = self._places[id(pool)] = {text: number for number, text in enumerate(pool.passages)}
        with meter.phase("rank"):
            found = self.clara.search(question.text, DEPTH)
        meter.add("query", found.timings.query)
        meter.add("rank", -found.timings.query)
        return Ranked([place[one.text or ""] for one in found], found.latents)


class ByBM25:
    """BM25 over words; the words' weights come from all passages of the evaluation."""

    name = "bm25"

    def __init__(self, passages: Sequence[str], questions: int) -> None:
        """Index all ``passages`` that are offered, equal ones once; the time is divided among the ``questions``."""
        start = time.perf_counter()
        self._places = {text: number for number, text in enumerate(dict.fromkeys(passages))}
        self._index = BM25(list(self._places))
        self._share = (time.perf_counter() - start) / max(1, questions)

    def rank(self, questions: Sequence[Question], meter: Meter) -> list[Ranked]:
        """The passages of each question; equal scores stand in the order of the pool."""
        meter.add("compress", self._share * len(questions))
        with meter.phase("rank"):
            return [Ranked(self.best(question)) for question in questions]

    def best(self, question: Question, depth: int = DEPTH) -> list[int]:
        """The passages of one question, best first; of a corpus so many."""
        scores_N = self._index.scores(question.text)
        return _best(scores_N[[self._places[text] for text in question.pool.passages]], question.pool, depth)


class ByVectors:
    """Cosine between the vectors of a sentence-transformers bi-encoder; each passage is encoded once."""

    def __init__(self, model: str) -> None:
        """Load the model.

        Raises:
            ClaraError: the package is not installed, or the model cannot be loaded.
        """
        self.name = f"bi:{model}"
        self._encoder = SentenceTransformersEncoder(model)
        self._vectors: dict[str, np.ndarray] = {}

    def rank(self, questions: Sequence[Question], meter: Meter) -> list[Ranked]:
        """The passages of each question."""
        new = dict.fromkeys(text for question in questions for text in question.pool.passages)
        new = {text: None for text in new if text not in self._vectors}
        if new:
            with meter.phase("compress"):
                self._vectors |= zip(new, unit(self._encoder.documents(list(new))), strict=True)
        with meter.phase("query"):
            queries_BD = unit(self._encoder.questions([question.text for question in questions]))
        with meter.phase("rank"):
            return [
                Ranked(self._order(question, vector)) for question, vector in zip(questions, queries_BD, strict=True)
            ]

    def _order(self, question: Question, query_D: np.ndarray) -> list[int]:
        return _best(np.stack([self._vectors[text] for text in question.pool.passages]) @ query_D, question.pool)


class ByCrossEncoder:
    """The scores of a sentence-transformers cross-encoder; of a corpus it sees what BM25 finds."""

    def __init__(self, model: str, first: ByBM25) -> None:
        """Load the model.

        Raises:
            ClaraError: the package is not installed, or the model cannot be loaded.
        """
        with needing("a cross-encoder", "sentence-transformers", "eval"):
            from sentence_transformers import CrossEncoder
        self.name, self._first = f"cross:{model}", first
        try:
            self._model: Any = CrossEncoder(model)
        except (OSError, ValueError) as error:
            raise ClaraError(f"the cross-encoder {model!r} cannot be loaded ({str(error).splitlines()[0]})") from error

    def rank(self, questions: Sequence[Question], meter: Meter) -> list[Ranked]:
        """The passages of each question."""
        with meter.phase("rank"):
            offered = [
                self._first.best(one, RERANKED) if one.pool.shared else list(range(len(one.pool.passages)))
                for one in questions
            ]
            pairs = [(q.text, q.pool.passages[i]) for q, places in zip(questions, offered, strict=True) for i in places]
            scores = np.asarray(self._model.predict(pairs, show_progress_bar=False), dtype=np.float64).reshape(-1)
            parts = np.split(scores, np.cumsum([len(places) for places in offered])[:-1])
            orders = [np.argsort(-part, kind="stable").tolist() for part in parts]
        return [Ranked([places[i] for i in order]) for places, order in zip(offered, orders, strict=True)]


def _best(scores_N: np.ndarray, pool: Pool, depth: int = DEPTH) -> list[int]:
    """Places, best first and equal ones in their order; of a corpus so many."""
    return np.argsort(-scores_N, kind="stable").tolist()[: depth if pool.shared else None]


Ranker = AsRetrieved | ByLatents | ByBM25 | ByVectors | ByCrossEncoder
"""Orders passages; rankings by the same ``name`` are the same."""

"""Which passages are read for a question: as retrieved, by the checkpoint's latents, by BM25, by sentence-transformers.

A ranker orders the passages of each question's pool; of a whole corpus it gives the best `DEPTH`. The packages of the
baselines are optional and imported when used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from clara_model.errors import ClaraError, needing
from clara_model.latents import Latents
from clara_model.modeling.ranking import scores_in_parts
from clara_model.search.bm25 import BM25
from clara_model.windows import content_key
from trainers.data.negatives import SentenceTransformersEncoder, loaded, unit
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
        if (place := self._places.get(id(pool))) is None:
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

    kind = "bi"

    def __init__(self, model: str) -> None:
        self.name = f"{self.kind}:{model}"
        self._model = self._load(model)
        self._vectors: dict[str, Any] = {}

    def _load(self, model: str) -> Any:
        return SentenceTransformersEncoder(model)

    def _encoded(self, texts: list[str], *, asked: bool) -> Iterable[Any]:
        """Of each text, as a question or as a passage."""
        return unit(self._model.questions(texts) if asked else self._model.documents(texts))

    def _scores(self, query: Any, passages: list[Any]) -> np.ndarray:
        return np.stack(passages) @ query

    def rank(self, questions: Sequence[Question], meter: Meter) -> list[Ranked]:
        every = dict.fromkeys(text for question in questions for text in question.pool.passages)
        if new := [text for text in every if text not in self._vectors]:
            with meter.phase("compress"):
                self._vectors |= zip(new, self._encoded(new, asked=False), strict=True)
        with meter.phase("query"):
            queries = self._encoded([question.text for question in questions], asked=True)
        with meter.phase("rank"):
            return [
                Ranked(_best(self._scores(query, [self._vectors[text] for text in one.pool.passages]), one.pool))
                for one, query in zip(questions, queries, strict=True)
            ]


class ByLateInteraction(ByVectors):
    """Late interaction (ColBERT): for each token of the question the best match among the passage's, summed."""

    kind = "late"

    def _load(self, model: str) -> Any:
        with needing("late interaction", "sentence-transformers", "eval"):
            from sentence_transformers import MultiVectorEncoder
        _check_late(model)
        return loaded("late-interaction model", MultiVectorEncoder, model)

    def _encoded(self, texts: list[str], *, asked: bool) -> Iterable[Any]:
        encode = self._model.encode_query if asked else self._model.encode_document
        return encode(texts, show_progress_bar=False)

    def _scores(self, query: Any, passages: list[Any]) -> np.ndarray:
        return self._model.similarity([query], passages)[0].cpu().numpy()


def _check_late(model: str) -> None:
    """Refuse, by a `ClaraError`, a model of another kind: it would get a projection of random numbers."""
    from sentence_transformers.util import load_file_path

    files = [load_file_path(model, name) for name in ("config_sentence_transformers.json", "config.json")]
    ours, plain = (json.loads(Path(file).read_text(encoding="utf-8")) if file else {} for file in files)
    architectures = plain.get("architectures") or []
    late = any(one == "HF_ColBERT" or one.endswith("ForRetrieval") for one in architectures)
    kind = ours.get("model_type") or ", ".join(architectures)
    if kind and not late and ours.get("model_type") not in ("MultiVectorEncoder", "ColBERT"):
        raise ClaraError(f"{model!r} is no late-interaction model ({kind}); use bi:{model} or cross:{model}")


class ByCrossEncoder:
    """The scores of a sentence-transformers cross-encoder; of a corpus it sees what BM25 finds."""

    def __init__(self, model: str, first: ByBM25) -> None:
        with needing("a cross-encoder", "sentence-transformers", "eval"):
            from sentence_transformers import CrossEncoder
        self.name, self._first = f"cross:{model}", first
        self._model = loaded("cross-encoder", CrossEncoder, model)

    def rank(self, questions: Sequence[Question], meter: Meter) -> list[Ranked]:
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
"""``rank`` orders the passages of each question; rankings by the same ``name`` are the same."""

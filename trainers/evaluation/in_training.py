"""How well a model in memory answers and ranks, e.g. while it is trained: EM, F1, cover-EM and recall@1/3/5.

The same rankers, answers and scores as ``clara-eval``'s, through a `Clara` whose cache is empty. A checkpoint without a
query reasoner ranks with its compressor, which is what the query reasoner starts as, and reads the gold documents
unless told otherwise. Leaves out baselines, intervals and costs: ``clara-eval`` (`evaluation.comparison`) has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from clara_model.errors import ClaraError
from clara_model.inference.clara import Clara
from clara_model.inference.published import ClaraModel
from trainers.data.rows import Row
from trainers.evaluation.answerers import Budget, FromLatents
from trainers.evaluation.measuring import Meter
from trainers.evaluation.metrics import mean_scores, ranking_means
from trainers.evaluation.questions import Question, question_of
from trainers.evaluation.rankers import ByLatents, Ranked
from trainers.evaluation.records import Record
from trainers.evaluation.runner import record_of

Reading = Literal["auto", "ranked", "gold", "first"]
RankedBy = Literal["auto", "query_reasoner", "compressor"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured."""

    top_k: int = 5
    """Documents the generator reads."""
    read: Reading = "auto"
    """``ranked``: the best of the candidates; ``gold``: the positives; ``first``: in the file's order."""
    ranked_by: RankedBy = "auto"
    """The role that encodes questions; ``compressor`` is what the query reasoner starts as."""
    batch_size: int = 64
    """Prompts generated together."""
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if min(self.top_k, self.batch_size, self.max_new_tokens) < 1:
            raise ClaraError(f"top_k, batch_size and max_new_tokens must be at least 1, got {self}")
        if self.read not in get_args(Reading):
            raise ClaraError(f"read must be auto, ranked, gold or first, got {self.read!r}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `evaluate` returns."""

    metrics: dict[str, float]
    """``em``, ``f1``, ``cover_em`` and, where positives are known, ``recall@k`` and ``precision@k``."""
    ranked_by: str
    read: str
    records: list[Record]
    """Every question as it was ranked, read and answered."""


def evaluate(model: ClaraModel, rows: Sequence[Row], config: EvaluationConfig | None = None) -> Report:
    """Answer the one question of every row and score it; the model is put back into its mode afterwards.
    Raises `ClaraError`: a row has no or several questions, or lacks the positives that are asked for.
    """
    config = config or EvaluationConfig()
    questions = [question_of(number, row, model.tokens.windows) for number, row in enumerate(rows)]
    encoder = config.ranked_by
    if encoder == "auto":
        encoder = "query_reasoner" if "query_reasoner" in model.config.roles else "compressor"
    read = config.read
    if read == "auto":
        known = all(question.positives for question in questions)
        read = "ranked" if encoder == "query_reasoner" else "gold" if known else "first"
    was_training, meter = model.training, Meter(model.device)
    model.eval()
    try:  # latents alone are read; a long question is cut, as in training; passages are windows already
        with Clara(model, batch_size=config.batch_size, long_documents="truncate", expand=0) as clara:
            ranked = ByLatents(clara, encoder).rank(questions, meter)
            chosen = [_chosen(*one, read) for one in zip(questions, ranked, strict=True)]
            answers = FromLatents(clara, Budget(config.top_k, config.max_new_tokens)).read(questions, chosen, meter)
    finally:
        model.train(was_training)
    found = zip(questions, ranked, chosen, answers, strict=True)
    records = [record_of(question, one, answer, read=reading) for question, one, reading, answer in found]
    metrics = mean_scores([one.scores for one in records])
    metrics |= ranking_means([one.ranking for one in records], [one.positives for one in records])
    return Report(metrics=metrics, ranked_by=encoder, read=read, records=records)


def wrong_memory(rows: Sequence[Row]) -> list[Row]:
    """A control: the questions, each with the documents of the next row that shares none (or a `ClaraError`)."""
    found = []
    for place, row in enumerate(rows):
        after = [*rows[place + 1 :], *rows[:place]]
        other = next((one for one in after if set(row.documents).isdisjoint(one.documents)), None)
        if other is None:
            raise ClaraError(f"{row.source} shares documents with every other row, so none has wrong ones for it")
        found.append(replace(row, documents=other.documents, positives=other.positives))
    return found


def _chosen(question: Question, ranked: Ranked, read: str) -> Ranked:
    if read == "ranked":
        return ranked
    pool = question.pool
    if read == "gold" and not question.positives:
        raise ClaraError(f'{question.source} has no "pos_index", which read="gold" needs; use "ranked" or "first"')
    documents = question.positives if read == "gold" else range(len(pool.passages))
    order = [place for one in documents for place, document in enumerate(pool.documents) if document == one]
    assert ranked.latents is not None
    return Ranked(order, ranked.latents[[ranked.order.index(place) for place in order]])

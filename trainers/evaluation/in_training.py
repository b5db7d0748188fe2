"""How well a model in memory answers and ranks, e.g. while it is trained: EM, F1, cover-EM and recall@1/3/5.

The passes are those of `clara_model.inference.pipeline`, which every use of a model goes through. A checkpoint without
a query reasoner ranks with its compressor, which is what the query reasoner starts as, and reads the gold documents
unless told otherwise. Leaves out baselines, intervals and costs: ``clara-eval`` (`evaluation.comparison`) has them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from clara_model.errors import ClaraError
from clara_model.inference import pipeline
from clara_model.inference.pipeline import Limits
from clara_model.inference.published import ClaraModel
from clara_model.validation import Generation
from trainers.data.rows import Row
from trainers.evaluation.metrics import AnswerScores, mean_scores, ranking_means, score_answer

Read = Literal["auto", "ranked", "gold", "first"]
Setting = Literal["normal", "oracle"]
RankedBy = Literal["auto", "query_reasoner", "compressor"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured."""

    top_k: int = 5
    """Documents the generator reads."""
    read: Read = "auto"
    """``ranked``: the best of the candidates; ``gold``: the positives; ``first``: in the file's order."""
    ranked_by: RankedBy = "auto"
    """The role that encodes questions; ``compressor`` is what the query reasoner starts as."""
    setting: Setting = "normal"
    """``oracle``: the gold documents are put among the candidates where ``candidates`` cuts the list."""
    candidates: int = 0
    """Candidates offered per question, 0 for all of the row's."""
    batch_size: int = 64
    """Prompts generated together."""
    batch_tokens: int = 16_384
    """Tokens of one encoder batch."""
    max_new_tokens: int = 64
    """Of an answer."""

    def __post_init__(self) -> None:
        """Check every value."""
        if min(self.top_k, self.batch_size, self.batch_tokens, self.max_new_tokens) < 1 or self.candidates < 0:
            raise ClaraError(f"top_k, batch sizes and max_new_tokens must be at least 1, got {self}")
        if self.read not in ("auto", "ranked", "gold", "first") or self.setting not in ("normal", "oracle"):
            raise ClaraError(f"read must be auto, ranked, gold or first, and setting normal or oracle, got {self}")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answered question."""

    question: str
    answer: str
    references: tuple[str, ...]
    scores: AnswerScores
    documents: tuple[int, ...]
    """Indices of the documents that were read, in reading order."""
    ranking: tuple[int, ...]
    """All candidates, best first."""
    positives: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `evaluate` returns."""

    metrics: dict[str, float]
    """``em``, ``f1``, ``cover_em`` and, where positives are known, ``recall@k`` and ``precision@k``."""
    questions: int
    documents: int
    """Distinct ones."""
    ranked_by: str
    """``query_reasoner`` or ``compressor``."""
    read: str
    seconds: float
    predictions: tuple[Prediction, ...]


@torch.no_grad()
def evaluate(model: ClaraModel, rows: Sequence[Row], config: EvaluationConfig | None = None) -> Report:
    """Answer every question and score it.

    Args:
        model: in any mode; it is put back into it afterwards.
        rows: with one question each.
        config: what is measured.

    Raises:
        ClaraError: a row has no or several questions, or lacks the positives that are asked for.
    """
    config = config or EvaluationConfig()
    started, was_training = time.perf_counter(), model.training
    model.eval()
    try:
        rows = [_offered(_single(row), config) for row in rows]
        questions, limits = [row.questions[0] for row in rows], Limits(tokens=config.batch_tokens)
        candidates = pipeline.compress(model, [row.documents for row in rows], limits)
        encoder = config.ranked_by
        if encoder == "auto":
            encoder = "query_reasoner" if "query_reasoner" in model.config.roles else "compressor"
        queries = pipeline.encode(model, encoder, questions, "question", limits)
        ranked = pipeline.rank(queries.vectors, candidates, model.config.ranking)
        rankings = [[one.index for one in ranking] for ranking in ranked]
        read = _what_to_read(config.read, encoder, rows)
        chosen = [_chosen(row, ranking, read, config.top_k) for row, ranking in zip(rows, rankings, strict=True)]
        selected = [offered.pick(documents) for offered, documents in zip(candidates, chosen, strict=True)]
        how, limits = Generation(max_new_tokens=config.max_new_tokens), Limits(items=config.batch_size)
        answers = [one.text.strip() for one in pipeline.answer(model, questions, selected, how, limits)]
    finally:
        model.train(was_training)
    predictions = tuple(
        Prediction(
            question=row.questions[0],
            answer=answer,
            references=row.references,
            scores=score_answer(answer, row.references),
            documents=tuple(documents),
            ranking=tuple(ranking),
            positives=row.positives,
        )
        for row, answer, documents, ranking in zip(rows, answers, chosen, rankings, strict=True)
    )
    metrics = mean_scores([p.scores for p in predictions]) | ranking_means(rankings, [row.positives for row in rows])
    return Report(
        metrics=metrics,
        questions=len(rows),
        documents=len(pipeline.distinct(row.documents for row in rows)),
        ranked_by=encoder,
        read=read,
        seconds=time.perf_counter() - started,
        predictions=predictions,
    )


def _single(row: Row) -> Row:
    if len(row.questions) != 1:
        raise ClaraError(f"{row.source} has {len(row.questions)} questions; evaluation wants one in each row")
    return row if row.references else replace(row, references=row.answers)


def _offered(row: Row, config: EvaluationConfig) -> Row:
    """The row with the candidates that are offered."""
    if config.setting == "oracle" and not row.positives:
        raise ClaraError(f'{row.source} has no "pos_index", which the oracle setting needs; use normal')
    if not config.candidates or len(row.documents) <= config.candidates:
        return row
    first = list(row.positives[: config.candidates]) if config.setting == "oracle" else []
    others = [i for i in range(len(row.documents)) if i not in first]
    kept = sorted([*first, *others[: config.candidates - len(first)]])
    return replace(
        row,
        documents=tuple(row.documents[i] for i in kept),
        positives=tuple(kept.index(i) for i in row.positives if i in kept),
    )


def _what_to_read(read: Read, encoder: str, rows: Sequence[Row]) -> Read:
    if read != "auto":
        return read
    if encoder == "query_reasoner":
        return "ranked"
    return "gold" if all(row.positives for row in rows) else "first"


def _chosen(row: Row, ranking: Sequence[int], read: Read, top_k: int) -> list[int]:
    if read == "gold":
        if not row.positives:
            raise ClaraError(f'{row.source} has no "pos_index", which read="gold" needs; use "ranked" or "first"')
        return list(row.positives[:top_k])
    return list(ranking[:top_k]) if read == "ranked" else list(range(min(top_k, len(row.documents))))

"""Scores of answers (exact match, F1, cover exact match) and of rankings (recall and precision at k).

At parity with the published evaluation, quirks included: ``True`` and ``False`` count as yes and no, and a yes or no
that does not match scores no F1. Source: recorded numbers in ``goldens/cases/common/metrics.json``.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clara_model.errors import needing
from trainers.evaluation.records import Record

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BOOLEANS = {"True": "yes", "False": "no"}
_WHOLE = ("yes", "no", "noanswer")
RECALL_AT = (1, 3, 5)
SCORES = ("em", "f1", "cover_em")
"""Of an answer."""


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces."""
    text = _BOOLEANS.get(text, text)
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, truth: str) -> bool:
    """Whether the two are the same once normalised."""
    return normalize(prediction) == normalize(truth)


def cover_exact_match(prediction: str, truth: str) -> bool:
    """Whether every word of the truth is in the prediction."""
    return set(normalize(truth).split()) <= set(normalize(prediction).split())


def holds_answer(passage: str, truth: str) -> bool:
    """Whether the truth's words stand in the passage, in order and side by side; a truth without words does not."""
    wanted = normalize(truth)
    return bool(wanted) and f" {wanted} " in f" {normalize(passage)} "


def f1(prediction: str, truth: str) -> float:
    """Harmonic mean of word precision and recall; 0 where either side is empty."""
    said, true = normalize(prediction), normalize(truth)
    if said != true and (said in _WHOLE or true in _WHOLE):
        return 0.0
    said_words, true_words = said.split(), true.split()
    common = sum((Counter(said_words) & Counter(true_words)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(said_words), common / len(true_words)
    return 2 * precision * recall / (precision + recall)


def score_answer(prediction: str, truths: Sequence[str]) -> dict[str, float]:
    """`SCORES` of an answer, each in [0, 1]: the best over the accepted answers."""
    if not truths:
        raise ValueError("an answer needs at least one accepted answer to be scored against, got none")
    return {
        "em": float(max(exact_match(prediction, truth) for truth in truths)),
        "f1": max(f1(prediction, truth) for truth in truths),
        "cover_em": float(max(cover_exact_match(prediction, truth) for truth in truths)),
    }


def recall_at(ranking: Sequence[int], positives: Sequence[int], k: int) -> float:
    """Share of the positives among the first ``k``; 0 where there are none."""
    wanted = set(positives)
    return len(wanted & set(ranking[:k])) / len(wanted) if wanted else 0.0


def precision_at(ranking: Sequence[int], positives: Sequence[int], k: int) -> float:
    """Positives among the first ``k``, divided by ``k`` even where fewer are ranked."""
    return len(set(positives) & set(ranking[:k])) / k


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of `SCORES` by name."""
    return {name: sum(one[name] for one in scores) / max(1, len(scores)) for name in SCORES}


def ranking_means(rankings: Sequence[Sequence[int]], positives: Sequence[Sequence[int]]) -> dict[str, float]:
    """Mean ``recall@k`` and ``precision@k`` over the questions that have a positive; empty where none has."""
    pairs = [(ranking, wanted) for ranking, wanted in zip(rankings, positives, strict=True) if wanted]
    if not pairs:
        return {}
    means = {f"recall@{k}": sum(recall_at(r, w, k) for r, w in pairs) / len(pairs) for k in RECALL_AT}
    return means | {f"precision@{k}": sum(precision_at(r, w, k) for r, w in pairs) / len(pairs) for k in RECALL_AT}


def recall_sums(scores_BK: Tensor, positives_BK: Tensor) -> Tensor:
    """Sums over a batch ``[4]``, on its device: of the recall at 1, 3 and 5, and of the questions with a positive.

    Scores ``[B, K]`` are ``-inf`` at candidates that are not there, positives are 1.
    """
    wanted = positives_BK.sum(dim=1)
    ordered = positives_BK.gather(1, scores_BK.argsort(dim=1, descending=True))
    sums = [(ordered[:, :k].sum(dim=1) / wanted.clamp_min(1)).sum() for k in RECALL_AT]
    return torch.stack([*sums, (wanted > 0).sum().to(sums[0].dtype)])


NAMES = {"ndcg_cut_10": "ndcg@10", "recip_rank": "mrr"}
ANSWER_AT = "answer"


def ranking_scores(records: Sequence[Record], *, known_only: bool = False) -> list[dict[str, float]]:
    """The scores of each answered record by name; nothing where no question has a gold document.

    With ``known_only`` questions without a gold document are left out, as in the published training log; the published
    evaluation gives them 0. Where no question has one: whether a passage that holds an answer is among the first k.
    Raises `ClaraError`: pytrec_eval is not installed.
    """
    if not any(record.positives for record in records):
        return [
            {f"{ANSWER_AT}@{k}": float(0 < (one.answer_at or 0) <= k) for k in RECALL_AT} if one.ranking else {}
            for one in records
        ]
    measured = _measured([record for record in records if record.positives])
    found = []
    for one in records:
        scores = {f"recall@{k}": recall_at(one.ranking, one.positives, k) for k in RECALL_AT}
        scores |= {f"precision@{k}": precision_at(one.ranking, one.positives, k) for k in RECALL_AT}
        scores |= measured.get(one.number, dict.fromkeys(NAMES.values(), 0.0))
        found.append({} if known_only and not one.positives else scores)
    return found


def _measured(records: Sequence[Record]) -> dict[int, dict[str, float]]:
    """nDCG@10 and the reciprocal rank of the first gold document, by question."""
    with needing("ranking (nDCG, MRR)", "pytrec-eval-terrier", "eval"):
        import pytrec_eval
    wanted = {str(one.number): {str(document): 1 for document in one.positives} for one in records}
    run = {str(one.number): {str(doc): 1.0 / place for place, doc in enumerate(one.ranking, 1)} for one in records}
    found = pytrec_eval.RelevanceEvaluator(wanted, {"ndcg_cut.10", "recip_rank"}).evaluate(run)
    return {
        one.number: {name: float(found.get(str(one.number), {}).get(key, 0.0)) for key, name in NAMES.items()}
        for one in records
    }

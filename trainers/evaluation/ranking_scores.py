"""How well documents were ranked, question by question: recall and precision at k, nDCG@10 and MRR (pytrec_eval)."""

from __future__ import annotations

from collections.abc import Sequence

from clara_model.errors import ClaraError
from trainers.evaluation.metrics import RECALL_AT, precision_at, recall_at
from trainers.evaluation.records import Record

NAMES = {"ndcg_cut_10": "ndcg@10", "recip_rank": "mrr"}
ANSWER_AT = "answer"


def ranking_scores(records: Sequence[Record], *, known_only: bool = False) -> list[dict[str, float]]:
    """The scores of each record by name; nothing where no question has a gold document.

    Args:
        records: of questions that were answered.
        known_only: leave out questions without a gold document; the published evaluation gives them 0 (its training
            log leaves them out).

    Raises:
        ClaraError: pytrec_eval is not installed.
    """
    known = [bool(record.positives) for record in records]
    if not any(known):
        return [_holding(record) if record.ranking else {} for record in records]
    measured = _measured([record for record in records if record.positives])
    zero = dict.fromkeys([*_at_k(records[0]), *NAMES.values()], 0.0)
    return [
        {**_at_k(record), **measured[record.number]} if has else {} if known_only else dict(zero)
        for record, has in zip(records, known, strict=True)
    ]


def _at_k(record: Record) -> dict[str, float]:
    ranking, wanted = record.ranking, record.positives
    recall = {f"recall@{k}": recall_at(ranking, wanted, k) for k in RECALL_AT}
    return recall | {f"precision@{k}": precision_at(ranking, wanted, k) for k in RECALL_AT}


def _holding(record: Record) -> dict[str, float]:
    """Where no gold documents are known: whether a passage that holds an accepted answer is among the first k."""
    place = record.answer_at or 0
    return {f"{ANSWER_AT}@{k}": float(0 < place <= k) for k in RECALL_AT}


def _measured(records: Sequence[Record]) -> dict[int, dict[str, float]]:
    """nDCG@10 and the reciprocal rank of the first gold document, by question."""
    try:
        import pytrec_eval
    except ImportError as error:
        raise ClaraError(
            "nDCG and MRR need the pytrec-eval-terrier package; install it with: pip install 'clara-integrations[eval]'"
        ) from error
    wanted = {str(one.number): {str(document): 1 for document in one.positives} for one in records}
    run = {
        str(one.number): {str(document): 1.0 / place for place, document in enumerate(one.ranking, start=1)}
        for one in records
    }
    found = pytrec_eval.RelevanceEvaluator(wanted, {"ndcg_cut.10", "recip_rank"}).evaluate(run)
    return {
        one.number: {name: float(found.get(str(one.number), {}).get(key, 0.0)) for key, name in NAMES.items()}
        for one in records
    }

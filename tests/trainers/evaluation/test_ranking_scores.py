"""Recall, precision, nDCG and MRR: the recorded numbers of both published variants, and cases by hand."""

import json
from math import log2
from pathlib import Path

import eval_rows
import pytest

from trainers.evaluation.metrics import holds_answer, ranking_scores
from trainers.evaluation.records import Record


def means(records: list[Record], **options: bool) -> dict[str, float]:
    scored = [one for one in ranking_scores(records, **options) if one]
    return {name: sum(one[name] for one in scored) / len(scored) for name in scored[0]}


def test_both_published_ways_of_dividing(goldens: Path):
    recorded = json.loads((goldens / "cases/common/metrics.json").read_text())
    for name, known_only, sign in (("stage2", False, "@"), ("trainer_retrieval", True, "_")):
        case = recorded[name]
        records = [
            eval_rows.record(n, ranking=row["topk_idx"], positives=row["pos_index"])
            for n, row in enumerate(case["input"])
        ]
        found = means(records, known_only=known_only)
        for k in (1, 3, 5):
            assert found[f"recall@{k}"] == pytest.approx(case["result"][f"recall{sign}{k}"])
            assert found[f"precision@{k}"] == pytest.approx(case["result"][f"precision{sign}{k}"])


def test_ndcg_and_mrr_by_hand():
    (found,) = ranking_scores([eval_rows.record(0, ranking=[4, 2, 0, 3], positives=[2, 3])])
    assert found["mrr"] == 0.5
    assert found["ndcg@10"] == pytest.approx((1 / log2(3) + 1 / log2(5)) / (1 / log2(2) + 1 / log2(3)))


def test_without_gold_documents_it_counts_whether_a_passage_holds_the_answer():
    records = [eval_rows.record(n, ranking=[0, 1, 2], answer_at=at) for n, at in enumerate([1, 3, None])]
    assert means(records) == pytest.approx({"answer@1": 1 / 3, "answer@3": 2 / 3, "answer@5": 2 / 3})
    assert holds_answer("It was the Red Tower, in 1907.", "red tower") and not holds_answer("redder tower", "red tower")
    assert not holds_answer("anything", "the")

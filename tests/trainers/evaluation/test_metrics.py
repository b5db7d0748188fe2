"""Answer and ranking scores: recorded numbers, and cases computed by hand."""

import json
from pathlib import Path

import pytest
import torch

from trainers.evaluation.metrics import (
    cover_exact_match,
    exact_match,
    f1,
    normalize,
    precision_at,
    ranking_means,
    recall_at,
    recall_sums,
    score_answer,
)


def test_every_recorded_pair_scores_the_same(goldens: Path):
    for pair in json.loads((goldens / "cases/common/metrics.json").read_text())["pairs"]:
        said, true = pair["prediction"], pair["ground_truth"]
        assert exact_match(said, true) == pair["em"], pair
        assert cover_exact_match(said, true) == pair["cover_em"], pair
        assert f1(said, true) == pytest.approx(pair["f1"], abs=1e-12), pair
        if said not in ("True", "False"):
            assert normalize(said) == pair["normalized_prediction"], pair


def test_recorded_means_over_lists(goldens: Path):
    recorded = json.loads((goldens / "cases/common/metrics.json").read_text())
    rows = recorded["basic"]["input"]
    scores = [score_answer(row["CLaRa_normal_output"], [row["answer"]]) for row in rows]
    result = recorded["basic"]["result"]
    assert sum(s["f1"] for s in scores) / len(scores) == pytest.approx(result["f1"])
    assert sum(s["em"] for s in scores) / len(scores) == pytest.approx(result["em"])
    assert sum(s["cover_em"] for s in scores) / len(scores) == pytest.approx(result["acc"])


def test_recorded_ranking_means(goldens: Path):
    recorded = json.loads((goldens / "cases/common/metrics.json").read_text())["trainer_retrieval"]
    means = ranking_means([r["topk_idx"] for r in recorded["input"]], [r["pos_index"] for r in recorded["input"]])
    for k in (1, 3, 5):
        assert means[f"recall@{k}"] == pytest.approx(recorded["result"][f"recall_{k}"])
        assert means[f"precision@{k}"] == pytest.approx(recorded["result"][f"precision_{k}"])


def test_answers_by_hand():
    assert exact_match("The  Tower!", "tower") and not exact_match("towers", "tower")
    assert f1("the red tower", "a tower") == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert f1("yes it is", "yes") == 0.0
    assert f1("True", "yes") == 1.0
    assert cover_exact_match("in 1907 or so", "1907") and not cover_exact_match("19070", "1907")


def test_the_best_accepted_answer_counts():
    scores = score_answer("north tower", ["south", "the North Tower"])
    assert scores == {"em": 1.0, "f1": 1.0, "cover_em": 1.0}
    with pytest.raises(ValueError, match="at least one accepted answer"):
        score_answer("x", [])


def test_rankings_by_hand():
    assert recall_at([4, 2, 0], [2, 3], 3) == 0.5
    assert recall_at([4], [], 1) == 0.0
    assert precision_at([4, 2], [2], 5) == 0.2
    assert ranking_means([[0, 1]], [[]]) == {}


def test_running_sums_equal_the_lists():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, float("-inf")], [0.5, 0.4, 0.3]])
    positives = torch.tensor([[0.0, 0, 1], [1, 1, 0], [0, 0, 0]])
    lists = ranking_means([[1, 2, 0], [0, 1], [0, 1, 2]], [[2], [0, 1], []])
    at1, at3, at5, count = recall_sums(scores, positives).tolist()
    assert count == 2
    assert [at1 / 2, at3 / 2, at5 / 2] == [lists["recall@1"], lists["recall@3"], lists["recall@5"]]

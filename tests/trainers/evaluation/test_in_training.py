"""Measuring a checkpoint: what is read, in which setting, and that batches change nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_rows

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from trainers.data.rows import Row, parse_row
from trainers.evaluation.in_training import EvaluationConfig, evaluate

QUICK = EvaluationConfig(top_k=2, max_new_tokens=4)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [parse_row(row) for row in training_rows.question_rows(6)]


@pytest.fixture(scope="module")
def end_to_end(tiny_clara_folder: Path) -> ClaraModel:
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def stage1(pretrained: Path) -> ClaraModel:
    return ClaraModel.from_pretrained(pretrained, dtype=torch.float32, device="cpu")


def test_answers_and_ranking_equal_the_models_own(end_to_end: ClaraModel, rows: list[Row]):
    report = evaluate(end_to_end, rows, QUICK)
    texts, chosen = end_to_end.generate_from_questions(
        [row.questions[0] for row in rows], [list(row.documents) for row in rows], 4, generation_top_k=2
    )
    assert [p.answer for p in report.predictions] == [text.strip() for text in texts]
    assert [list(p.documents) for p in report.predictions] == chosen.tolist()
    assert (report.ranked_by, report.read, report.questions) == ("query_reasoner", "ranked", 6)
    assert report.documents == len({text for row in rows for text in row.documents})


def test_batches_change_nothing(end_to_end: ClaraModel, rows: list[Row]):
    one = evaluate(end_to_end, rows, replace(QUICK, batch_size=1, batch_tokens=1))
    many = evaluate(end_to_end, rows, QUICK)
    assert [p.answer for p in one.predictions] == [p.answer for p in many.predictions]
    assert one.metrics == many.metrics


def test_before_stage_3_the_compressor_ranks_and_the_gold_documents_are_read(stage1: ClaraModel, rows: list[Row]):
    report = evaluate(stage1, rows, QUICK)
    assert (report.ranked_by, report.read) == ("compressor", "gold")
    assert all(p.documents == p.positives for p in report.predictions)
    assert report.metrics["recall@5"] == 1.0


def test_the_first_documents_are_read_where_no_gold_ones_are_known(stage1: ClaraModel, rows: list[Row]):
    report = evaluate(stage1, [replace(row, positives=()) for row in rows], QUICK)
    assert report.read == "first" and report.predictions[0].documents == (0, 1)
    assert not any(name.startswith("recall") for name in report.metrics)


def test_the_oracle_setting_keeps_the_gold_documents(end_to_end: ClaraModel, rows: list[Row]):
    normal = evaluate(end_to_end, rows, replace(QUICK, candidates=1))
    oracle = evaluate(end_to_end, rows, replace(QUICK, candidates=1, setting="oracle"))
    assert oracle.metrics["recall@1"] == 1.0
    first = sum(row.positives == (0,) for row in rows)
    assert sum(bool(p.positives) for p in normal.predictions) == first < len(rows)


def test_out_of_memory_is_no_end(end_to_end: ClaraModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch):
    expected, encode = evaluate(end_to_end, rows, QUICK), end_to_end.encode

    def small_device(role, ids, mask):
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(role, ids, mask)

    monkeypatch.setattr(end_to_end, "encode", small_device)
    found = evaluate(end_to_end, rows, QUICK)
    assert found.predictions == expected.predictions


def test_training_goes_on_as_before(stage1: ClaraModel, rows: list[Row]):
    stage1.train()
    evaluate(stage1, rows[:1], QUICK)
    assert stage1.training
    stage1.eval()


@pytest.mark.parametrize(
    ("row", "config", "message"),
    [
        ({"positives": ()}, {"setting": "oracle"}, "which the oracle setting needs"),
        ({"positives": ()}, {"read": "gold"}, 'which read="gold" needs'),
        ({"questions": ("a", "b")}, {}, "2 questions"),
    ],
)
def test_rows_that_cannot_be_measured_are_named(end_to_end, rows, row, config, message):
    with pytest.raises(ClaraError, match=f"here:7 has .*{message}"):
        evaluate(end_to_end, [replace(rows[0], source="here:7", **row)], replace(QUICK, **config))


def test_settings_are_checked():
    with pytest.raises(ClaraError, match="must be at least 1"):
        EvaluationConfig(top_k=0)
    with pytest.raises(ClaraError, match="read must be auto, ranked, gold or first"):
        EvaluationConfig(read="all")

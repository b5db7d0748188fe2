"""Measuring a checkpoint: what is read, in which setting, and that batches change nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_rows

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from trainers.data.rows import Row, parse_row
from trainers.evaluation.in_training import EvaluationConfig, evaluate, wrong_memory

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
    assert [one.answer for one in report.records] == [text.strip() for text in texts]
    assert [one.read for one in report.records] == chosen.tolist()
    assert (report.ranked_by, report.read, len(report.records)) == ("query_reasoner", "ranked", 6)


def test_scores_by_hand(end_to_end: ClaraModel, rows: list[Row]):
    """Three questions whose accepted answer is what the model says, three whose accepted answer shares no word."""
    said = [one.answer for one in evaluate(end_to_end, rows, QUICK).records]
    rows = [replace(row, references=(said[i] if i < 3 else "zzz",)) for i, row in enumerate(rows)]
    report = evaluate(end_to_end, rows, QUICK)
    assert [one.scores["em"] for one in report.records] == [1, 1, 1, 0, 0, 0]
    assert {name: report.metrics[name] for name in ("em", "f1", "cover_em")} == {"em": 0.5, "f1": 0.5, "cover_em": 0.5}
    for row, one in zip(rows, report.records, strict=True):
        query, blocks = end_to_end.encode_queries(row.questions), end_to_end.compress(row.documents)
        scores = end_to_end.score(query, blocks)[0].tolist()
        assert one.ranking == sorted(range(len(scores)), key=lambda i: -scores[i]) and len(one.ranking) > 1
    first = [one.ranking[0] in row.positives for row, one in zip(rows, report.records, strict=True)]
    assert report.metrics["precision@1"] == sum(first) / 6


def test_equal_documents_stand_in_the_order_given(end_to_end: ClaraModel, rows: list[Row]):
    row = replace(rows[0], documents=(rows[0].documents[1], *rows[0].documents[:2]), positives=())
    (record,) = evaluate(end_to_end, [row], QUICK).records
    assert record.ranking in ([0, 2, 1], [1, 0, 2])


def test_a_long_document_is_read_in_its_windows(end_to_end: ClaraModel, rows: list[Row]):
    sentence = "The harbour of Osmere was closed by ice for eleven days in that winter. "
    row = replace(rows[0], documents=(rows[0].documents[0], sentence * 60), positives=(1,))
    windows = end_to_end.tokens.windows(row.documents[1])
    (record,) = evaluate(end_to_end, [row], replace(QUICK, read="gold", top_k=2)).records
    assert len(windows) > 2 and len(record.order) == 1 + len(windows)
    assert record.ranking in ([0, 1], [1, 0]) and record.read == [1, 1]
    assert record.shown == [row.documents[1][start:end] for start, end in windows[:2]]


def test_the_compressor_ranks_by_its_own_latents(stage1: ClaraModel, rows: list[Row]):
    for row, one in zip(rows, evaluate(stage1, rows, QUICK).records, strict=True):
        asked, blocks = stage1.compress(row.questions), stage1.compress(row.documents)
        scores = stage1.score(asked, blocks)[0].tolist()
        assert one.ranking == sorted(range(len(scores)), key=lambda i: -scores[i])


def test_weights_that_have_moved_give_other_latents(end_to_end: ClaraModel, rows: list[Row]):
    """No latent of an earlier evaluation is met again."""
    before = evaluate(end_to_end, rows, QUICK).records
    weight = next(iter(end_to_end.roles.parameters("compressor").values()))
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.data.mul_(-3.0)
    moved = evaluate(end_to_end, rows, QUICK).records
    with torch.no_grad():
        weight.copy_(kept)
    assert [one.answer for one in moved] != [one.answer for one in before]
    assert evaluate(end_to_end, rows, QUICK).records == before


def test_batches_change_nothing(end_to_end: ClaraModel, rows: list[Row]):
    one = evaluate(end_to_end, rows, replace(QUICK, batch_size=1))
    many = evaluate(end_to_end, rows, QUICK)
    assert one.records == many.records and one.metrics == many.metrics


def test_before_stage_3_the_compressor_ranks_and_the_gold_documents_are_read(stage1: ClaraModel, rows: list[Row]):
    report = evaluate(stage1, rows, QUICK)
    assert (report.ranked_by, report.read) == ("compressor", "gold")
    assert all(one.read == one.positives for one in report.records)
    assert report.metrics["recall@5"] == 1.0


def test_the_first_documents_are_read_where_no_gold_ones_are_known(stage1: ClaraModel, rows: list[Row]):
    report = evaluate(stage1, [replace(row, positives=()) for row in rows], QUICK)
    assert report.read == "first" and report.records[0].read == [0, 1]
    assert not any(name.startswith("recall") for name in report.metrics)


def test_out_of_memory_is_no_end(end_to_end: ClaraModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch):
    expected, generate, sizes = evaluate(end_to_end, rows, QUICK), end_to_end.generate_ids, []

    def small_device(prompts, *args, **options):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(prompts, *args, **options)

    monkeypatch.setattr(end_to_end, "generate_ids", small_device)
    assert evaluate(end_to_end, rows, QUICK).records == expected.records
    assert max(sizes) > 2 and sizes[-1] <= 2


def test_training_goes_on_as_before(stage1: ClaraModel, rows: list[Row]):
    stage1.train()
    evaluate(stage1, rows[:1], QUICK)
    assert stage1.training
    stage1.eval()


@pytest.mark.parametrize(
    ("row", "config", "message"),
    [
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


def test_wrong_documents_are_those_of_the_next_row_that_shares_none(rows: list[Row]):
    first, second, third = rows[:3]
    like = replace(second, documents=(*second.documents, first.documents[0]))
    found = wrong_memory([first, like, third])
    assert [one.documents for one in found] == [third.documents, third.documents, first.documents]
    assert [one.positives for one in found] == [third.positives, third.positives, first.positives]
    assert [one.questions for one in found] == [row.questions for row in (first, like, third)]
    with pytest.raises(ClaraError, match="shares documents with every other row"):
        wrong_memory([first, like])

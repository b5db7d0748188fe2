"""One pipeline for `Clara`, the published calls and evaluation: the same steps, the same way out when memory ends."""

import pytest
import torch
from small_model import QUESTIONS, TEXTS

from clara_model import ClaraModel
from clara_model.inference import pipeline
from clara_model.inference.clara import Clara
from clara_model.inference.pipeline import Limits
from clara_model.validation import Generation


@pytest.fixture
def small_device(model: ClaraModel, monkeypatch: pytest.MonkeyPatch) -> ClaraModel:
    """A model on a device with room for two texts or prompts at a time."""
    encode, generate = model.encode_rows, model.generate_ids

    def encoding(role, rows, *, one_text_per_pass=False):
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(role, rows, one_text_per_pass=one_text_per_pass)

    def generating(prompts, *args, **kwargs):
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(prompts, *args, **kwargs)

    monkeypatch.setattr(model, "encode_rows", encoding)
    monkeypatch.setattr(model, "generate_ids", generating)
    return model


def test_the_published_calls_go_on_where_memory_ends(small_device: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    found = small_device.generate_from_questions(QUESTIONS, [TEXTS] * 3, 5)
    rewritten = small_device.generate_from_paraphrase([], [TEXTS[:1], TEXTS[1:2], TEXTS[2:3]], 5, instruction=0)
    monkeypatch.undo()
    expected = small_device.generate_from_questions(QUESTIONS, [TEXTS] * 3, 5)
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])
    assert rewritten == small_device.generate_from_paraphrase([], [TEXTS[:1], TEXTS[1:2], TEXTS[2:3]], 5, instruction=0)


def test_texts_keep_their_order_whatever_they_are_batched_with(model: ClaraModel):
    texts = [TEXTS[0], "", "one two three " * 12, TEXTS[3]]
    expected = [model.compress([text]) for text in texts]
    found = pipeline.encode(model, "compressor", texts, limits=Limits(tokens=60, items=2))
    for place, one in enumerate(expected):
        torch.testing.assert_close(found.vectors[place], one.vectors[0], atol=1e-5, rtol=1e-4)
    assert found.lengths == tuple(one.lengths[0] for one in expected)


def test_candidates_that_are_part_of_many_blocks_are_ranked_alone(model: ClaraModel):
    rows = [TEXTS[3:5], TEXTS[:2], [TEXTS[4], TEXTS[0], TEXTS[4]]]
    queries = pipeline.encode(model, "query_reasoner", QUESTIONS, "question")
    rankings = pipeline.rank(queries.vectors, pipeline.compress(model, rows), model.config.ranking)
    for question, row, ranking in zip(QUESTIONS, rows, rankings, strict=True):
        alone = Clara(model).rank(question, row)
        assert [one.index for one in ranking] == [one.index for one in alone]
        assert [one.score for one in ranking] == pytest.approx([one.score for one in alone], abs=1e-5)


def test_each_pass_is_run_by_itself(model: ClaraModel):
    phases = []

    def run(phase, work, items):
        phases.append((phase, len(items)))
        return pipeline.here(phase, work, items)

    limits = Limits(items=2)
    rows = pipeline.compress(model, [TEXTS], limits, run)
    selected = [rows[0].pick([0, 1])] * 3
    pipeline.answer(model, QUESTIONS, selected, Generation(max_new_tokens=2), limits, run)
    assert phases == [("compress", 2), ("compress", 2), ("compress", 1), ("generate", 2), ("generate", 1)]


def test_a_thread_that_gives_up_leaves_the_work_to_the_next(model: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    clara = Clara(model)
    real, failures = model.encode, [RuntimeError("the device is gone")]

    def failing_once(role, ids, mask):
        if failures:
            raise failures.pop()
        return real(role, ids, mask)

    monkeypatch.setattr(model, "encode", failing_once)
    with pytest.raises(RuntimeError, match="the device is gone"):
        clara.compress(TEXTS)
    assert len(clara.compress(TEXTS)) == len(TEXTS)

"""`Clara` with an engine behind it: what its own model would have written comes back, and callers do not wait."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import small_model
from stub_engine import stub_engine

from clara_model import Clara, ClaraError, EngineError
from clara_model.checkpoint.export import export

OPTIONS = {"dtype": "float32", "device": "cpu"}
QUESTIONS, TEXTS = small_model.QUESTIONS, small_model.TEXTS
HOW = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def own(tiny_clara_folder):
    with Clara.load(tiny_clara_folder, **OPTIONS) as clara:
        yield clara


@pytest.fixture(scope="module")
def stub(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine") / "generator"
    export(own.model.base, own.model.tokens.tokenizer, folder)
    with stub_engine(folder) as server:
        yield server


@pytest.fixture
def clara(stub, tiny_clara_folder):
    with Clara.load(tiny_clara_folder, engine_url=stub.url, engine_timeout=60, **OPTIONS) as clara:
        stub.bodies.clear()
        yield clara


def test_answers_rankings_usage_and_reasons_are_those_of_the_own_loop(own, clara, stub):
    for one, other in zip(own.answers(QUESTIONS, TEXTS, **HOW), clara.answers(QUESTIONS, TEXTS, **HOW), strict=True):
        assert (other.text, other.ranking, other.selected) == (one.text, one.ranking, one.selected)
        assert (other.usage, other.finish_reason) == (one.usage, one.finish_reason)
        assert other.confidence == pytest.approx(one.confidence, abs=1e-5)
        assert other.timings.generate > 0
    assert len(stub.bodies) == len(QUESTIONS)
    assert clara.paraphrase(TEXTS[:2], **HOW) == own.paraphrase(TEXTS[:2], **HOW)


def test_a_copy_needs_the_model_in_this_process(clara):
    with pytest.raises(ClaraError, match="needs the model in this process to write; load it without engine_url"):
        clara.answer(QUESTIONS[0], TEXTS, copy=True)


def test_a_stream_is_read_as_it_is_written_and_its_close_ends_the_request(own, clara, stub):
    stub.left.clear()
    expected = own.stream(QUESTIONS[0], TEXTS, **HOW)
    made = clara.stream(QUESTIONS[0], TEXTS, **HOW)
    assert list(made) == list(expected) and made.answer.text == expected.answer.text
    assert made.answer.confidence == pytest.approx(expected.answer.confidence, abs=1e-5)
    stub.seconds = 0.1
    try:
        with clara.stream(QUESTIONS[0], TEXTS, max_new_tokens=300) as stream:
            next(stream)
        assert stub.left.wait(10)
    finally:
        stub.seconds = 0.0


@pytest.mark.parametrize(("expand", "sent"), [(1, "prompt_embeds"), (2, "prompt"), (9, "prompt")])
def test_the_best_passages_stand_as_text_in_what_the_engine_reads(stub, tiny_clara_folder, expand, sent):
    """Beside the slots of the others, or without any slots: then the ids go, which are no text that could be forged."""
    with (
        Clara.load(tiny_clara_folder, expand=expand, **OPTIONS) as own,
        Clara.load(tiny_clara_folder, expand=expand, engine_url=stub.url, **OPTIONS) as clara,
    ):
        stub.bodies.clear()
        for question in QUESTIONS:
            one, other = (each.answer(question, TEXTS, **HOW) for each in (own, clara))
            assert (other.text, other.expanded, other.usage) == (one.text, one.expanded, one.usage)
            assert (other.quotes, other.unsupported, other.finish_reason) == (
                one.quotes,
                one.unsupported,
                one.finish_reason,
            )
            assert other.expanded == min(expand, len(one.selected)) and 0 < other.confidence <= 1
            assert other.confidence == pytest.approx(one.confidence, abs=1e-5)
            stream = clara.stream(question, TEXTS, **HOW)
            assert "".join(stream) == one.text and stream.answer.expanded == one.expanded
        assert {sent} == {name for body in stub.bodies for name in ("prompt", "prompt_embeds") if name in body}


def test_callers_are_with_the_engine_at_once_and_not_one_by_one(own, clara, stub):
    latents = clara.compress(TEXTS)
    expected = [own.answer(question, latents, **HOW).text for question in QUESTIONS]
    meeting = threading.Barrier(8, timeout=60)
    stub.before = lambda: meeting.wait()  # nobody is answered before eight have asked
    try:
        with ThreadPoolExecutor(8) as pool:
            texts = pool.map(lambda number: clara.answer(QUESTIONS[number % 3], latents, **HOW).text, range(8))
            assert list(texts) == [expected[number % 3] for number in range(8)]
    finally:
        stub.before = lambda: None


def test_the_base_model_alone_is_not_asked_of_the_engine(own, clara, stub):
    assert clara.plain("Who came?", **HOW).text == own.plain("Who came?", **HOW).text
    assert stub.bodies == []


def test_an_engine_that_is_not_there_or_has_another_generator_is_told_when_it_is_loaded(base_folder, tmp_path, stub):
    folder = tmp_path / "other"
    small_model.build_model(base_folder, seed=5).save_pretrained(folder)
    with pytest.raises(EngineError, match="this checkpoint's generator is clara-"):
        Clara.load(folder, engine_url=stub.url, **OPTIONS)
    with pytest.raises(EngineError, match="no engine answers at"):
        Clara.load(folder, engine_url="http://127.0.0.1:9", **OPTIONS)

"""`cold="text"`: a question whose candidates have no latents is answered from text, and they are made for the next."""

import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from scheduling import until
from small_model import QUESTIONS, TEXTS, build_model, save_base

from clara_model import Clara, ClaraError, ClaraModel
from clara_model.inference import scheduler
from clara_model.inference.scheduler import Background, Scheduler
from clara_model.store import open_store
from clara_model.store.cache import LatentCache

SHORT = {"max_new_tokens": 6}
QUESTION = QUESTIONS[0]


@pytest.fixture(scope="module")
def shared(tiny_clara_folder: Path) -> ClaraModel:
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")


class Refusing(LatentCache):
    """A store that fails when told to, as one on a full disk does."""

    full = False

    def put(self, fingerprint, blocks):
        if self.full:
            raise ClaraError("the disk is full")
        super().put(fingerprint, blocks)


def test_first_from_text_then_from_latents_as_if_they_had_been_there(shared: ClaraModel):
    with Clara(shared, cold="text") as clara, Clara(shared) as other:
        first = clara.answer(QUESTION, TEXTS, **SHORT)
        assert (first.answered_from, first.usage.slots, first.timings.compress) == ("text", 0, 0)
        clara.flush()
        third, expected = clara.answer(QUESTION, TEXTS, **SHORT), other.answer(QUESTION, TEXTS, **SHORT)
        assert (third.answered_from, expected.answered_from) == ("latents", "latents")
        assert (third.text, third.ranking, third.selected, third.usage) == (
            expected.text, expected.ranking, expected.selected, expected.usage,
        )  # fmt: skip
        assert third.timings.compress == 0
        assert torch.equal(clara.compress(TEXTS).vectors, other.compress(TEXTS).vectors)


def test_the_base_alone_reads_the_best_by_words_under_the_checkpoints_prompt(shared: ClaraModel):
    with Clara(shared, cold="text") as clara:
        answer = clara.answer(QUESTION, TEXTS, 2, **SHORT)
    order = [one.index for one in answer.ranking]
    assert order[0] == 0 and len(order) == len(TEXTS) and answer.selected == order[:2]
    assert {one.by for one in answer.ranking} == {"words"}
    read = "\n\n".join(TEXTS[index] for index in answer.selected)
    ids = shared.tokens.text_prompt_ids(shared.config.prompts.answer, read, QUESTION)
    assert answer.text == shared.generate_plain([ids], **SHORT).texts[0]
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.text_tokens == sum(shared.tokens.count(TEXTS[index]) for index in answer.selected)


def test_settled_documents_are_read_in_their_order(shared: ClaraModel):
    with Clara(shared, cold="text") as clara:
        answer = clara.answer(QUESTION, TEXTS[::-1], 2, rerank=False, **SHORT)
    assert (answer.answered_from, answer.selected, answer.ranking) == ("text", [0, 1], [])


def test_fewer_missing_than_are_read_are_compressed(shared: ClaraModel):
    with Clara(shared, cold="text") as clara:
        clara.compress(TEXTS[:4])
        assert clara.answer(QUESTION, TEXTS, 2, **SHORT).answered_from == "latents"
    with Clara(shared, cold="text") as clara:
        clara.compress(TEXTS[:3])
        assert clara.answer(QUESTION, TEXTS, 2, **SHORT).answered_from == "text"


def test_many_questions_each_from_what_is_there(shared: ClaraModel):
    with Clara(shared, cold="text") as clara, Clara(shared) as other:
        clara.compress(TEXTS[:2])
        rows = [TEXTS[:2], TEXTS[2:], TEXTS[:2]]
        found = clara.answers(QUESTIONS, rows, **SHORT)
        assert [one.answered_from for one in found] == ["latents", "text", "latents"]
        expected = other.answers(QUESTIONS, rows, **SHORT)
        assert [found[0].text, found[2].text] == [expected[0].text, expected[2].text]
        assert len({one.timings for one in found}) == 1


def test_what_takes_no_pass_is_compressed_at_once(tmp_path: Path):
    """Latents that are the residual alone cost less than reading the text; with its gate open they take a pass."""
    model = build_model(save_base(tmp_path), residual="anchors").eval()
    model.residuals.of["compressor"].gate.data.zero_()
    with Clara(model, cold="text") as clara:
        assert clara.answer(QUESTION, TEXTS, **SHORT).answered_from == "latents"
    model.residuals.of["compressor"].gate.data += 1
    with Clara(model, cold="text") as clara:
        assert clara.answer(QUESTION, TEXTS, **SHORT).answered_from == "text"


def test_given_latents_are_never_cold_and_compress_is_the_default(shared: ClaraModel):
    with Clara(shared) as clara:
        assert clara.answer(QUESTION, TEXTS, **SHORT).answered_from == "latents"
        latents = clara.compress(TEXTS)
        assert clara.plain("hello", **SHORT).answered_from == "text"
    with Clara(shared, cold="text") as clara:
        assert clara.answer(QUESTION, latents, **SHORT).answered_from == "latents"


def test_a_stream_is_what_the_answer_is(shared: ClaraModel):
    with Clara(shared, cold="text") as clara:
        expected = clara.answer(QUESTION, TEXTS, **SHORT)
    with Clara(shared, cold="text") as clara, clara.stream(QUESTION, TEXTS, **SHORT) as stream:
        assert "".join(stream) == expected.text == stream.answer.text
        assert stream.answer.answered_from == "text"
        clara.flush()
        assert clara.answer(QUESTION, TEXTS, **SHORT).answered_from == "latents"


def test_the_third_question_has_latents_even_if_nobody_ever_paused(shared: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scheduler, "GRACE", 30.0)
    monkeypatch.setattr(scheduler, "GRACE_AT_MOST", 30.0)
    with Clara(shared, cold="text") as clara:
        ways = [clara.answer(question, TEXTS, **SHORT).answered_from for question in QUESTIONS]
        assert ways == ["text", "text", "latents"]
        monkeypatch.setattr(scheduler, "GRACE", 0.0)


def test_a_ranking_by_words_says_so_and_waits_for_no_answer(shared: ClaraModel):
    with Clara(shared, cold="text") as clara:
        first = clara.rank(QUESTION, TEXTS, 3)
        assert (first[0].index, len(first), {one.by for one in first}) == (0, 3, {"words"})
        assert all(0 <= one.score <= 1 for one in first)
        clara.flush()
        with Clara(shared) as other:
            assert clara.rank(QUESTION, TEXTS) == other.rank(QUESTION, TEXTS)


def test_long_documents_are_read_in_windows(shared: ClaraModel):
    long = " ".join([*TEXTS, *TEXTS[1:]])
    with Clara(shared, cold="text") as clara:
        answer = clara.answer(QUESTION, [TEXTS[4], long], 2, **SHORT)
        assert answer.answered_from == "text"
        assert any(not window.whole for window in answer.windows)
        assert clara.rank(QUESTION, [TEXTS[4] + " ", long])[0].index == 1
    with Clara(shared, cold="text", long_documents="truncate") as clara:
        cut = clara.answer(QUESTION, [long], **SHORT)
        assert cut.answered_from == "text" and cut.usage.text_tokens <= shared.config.doc_max_length + 1


def test_texts_that_do_not_fit_the_base_are_left_out_or_compressed(shared: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    ids = shared.tokens.text_prompt_ids(shared.config.prompts.answer, TEXTS[0], QUESTION)
    monkeypatch.setattr(shared.base.config, "max_position_embeddings", len(ids) + SHORT["max_new_tokens"])
    with Clara(shared, cold="text") as clara:
        answer = clara.answer(QUESTION, TEXTS, 2, **SHORT)
        assert (answer.answered_from, answer.selected) == ("text", [0])
    monkeypatch.setattr(shared.base.config, "max_position_embeddings", len(ids) + SHORT["max_new_tokens"] - 1)
    with Clara(shared, cold="text") as clara:
        assert clara.answer(QUESTION, TEXTS, 1, **SHORT).answered_from == "latents"


def test_what_fails_is_logged_raised_by_flush_and_met_by_the_next_question(
    shared: ClaraModel, caplog: pytest.LogCaptureFixture
):
    store = Refusing()
    clara = Clara(shared, store=store, cold="text")
    store.full = True
    with caplog.at_level(logging.ERROR, "clara_model"):
        assert clara.answer(QUESTION, TEXTS, **SHORT).answered_from == "text"
        with pytest.raises(ClaraError, match="the disk is full"):
            clara.flush()
    (record,) = [one for one in caplog.records if "the disk is full" in one.getMessage()]
    assert record.exc_info is not None and f"{len(TEXTS)} documents" in record.getMessage()
    with pytest.raises(ClaraError, match="the disk is full"):
        clara.answer(QUESTION, TEXTS, **SHORT)
    store.full = False
    assert clara.answer(QUESTION, TEXTS, **SHORT).answered_from == "latents"
    clara.flush()  # nothing new has gone wrong
    clara.close()


def test_close_finishes_what_a_store_keeps(shared: ClaraModel, tmp_path: Path):
    with Clara(shared, store=tmp_path, cold="text") as clara:
        clara.answer(QUESTION, TEXTS, **SHORT)
    with open_store(tmp_path) as store:
        assert store.stats().blocks == len(TEXTS)
    with Clara(shared, store=tmp_path, cold="text") as clara:
        assert clara.answer(QUESTION, TEXTS, **SHORT).answered_from == "latents"


def test_close_drops_what_would_be_gone_and_holds_on_to_nothing(shared: ClaraModel):
    clara = Clara(shared, cold="text")
    shared = clara.shared
    clara.answer(QUESTION, TEXTS, **SHORT)
    clara.close()
    assert shared.background._thread is None and shared.background._compress is None
    assert len(shared.store) < len(TEXTS)


def test_many_callers_at_once(shared: ClaraModel):
    with Clara(shared, cold="text") as clara, Clara(shared) as other:
        answers = {}

        def ask(number: int) -> None:
            mine = [f"{text} ({number % 3})" for text in TEXTS]
            answers[number] = [clara.answer(question, mine, **SHORT) for question in QUESTIONS]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clara.flush()
        for number in range(3):
            mine = [f"{text} ({number})" for text in TEXTS]
            expected = other.answer(QUESTION, mine, **SHORT)
            assert clara.answer(QUESTION, mine, **SHORT).text == expected.text
        assert sorted(answers) == list(range(6))
        assert not clara.shared.background._waiting


PROCESS = """
    from clara_model import Clara
    texts = {texts!r}
    clara = Clara.load({model!r}, store={store!r}, cold="text", dtype="float32", device="cpu")
    print(clara.answer({question!r}, texts, max_new_tokens=2).answered_from, flush=True)
    raise KeyError("own")
"""


def test_a_process_that_ends_by_its_own_error_finishes_what_its_store_keeps(tiny_clara_folder: Path, tmp_path: Path):
    source = textwrap.dedent(PROCESS).format(
        texts=TEXTS, model=str(tiny_clara_folder), store=str(tmp_path / "store"), question=QUESTION
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.returncode) == ("text\n", 1) and "KeyError: 'own'" in ran.stderr, ran.stderr
    with open_store(tmp_path / "store") as store:
        assert store.stats().blocks == len(TEXTS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_waits_for_nobody():
    started, release = threading.Event(), threading.Event()
    queue = Background(Scheduler(), 1, lasting=True)
    queue.add(["a", "b"], lambda _: (started.set(), release.wait(30)), answered=True)
    assert started.wait(30)
    child = os.fork()
    if child == 0:
        done: list[str] = []
        queue.flush()
        queue.add(["c"], done.extend, answered=True)
        queue.flush()
        os._exit(0 if done == ["c"] else 1)
    release.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    queue.flush()


def test_questions_come_before_what_waits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scheduler, "GRACE", 0.5)
    monkeypatch.setattr(scheduler, "GRACE_AT_MOST", 0.7)
    owner, worked = Scheduler(), []
    queue = Background(owner, 1, lasting=True)
    owner.touch()
    start = time.monotonic()
    queue.add(["a"], lambda texts: worked.append(time.monotonic() - start), answered=True)
    for _ in range(6):
        time.sleep(0.1)
        owner.touch()
        assert not worked
    until(lambda: bool(worked))
    assert worked[0] >= 0.69  # after the longest patience, though somebody asks all the time
    queue.flush()


@pytest.mark.parametrize("value", ["warm", None, 1])
def test_another_word_is_refused(shared: ClaraModel, tiny_clara_folder: Path, value: object):
    for call in (lambda: Clara(shared, cold=value), lambda: Clara.load(tiny_clara_folder, cold=value)):
        with pytest.raises(ValueError, match=f"cold must be compress or text, got {value!r}"):
            call()

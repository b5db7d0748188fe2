"""Answers of callers that wait together come from one batch, and are what each would get alone."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from small_model import QUESTIONS, TEXTS

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.inference import pipeline
from clara_model.inference.clara import Answer, Clara

SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def shared(tiny_clara_folder: Path) -> ClaraModel:
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")


@pytest.fixture
def written(shared: ClaraModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The prompts of every generating batch."""
    seen: list[int] = []
    real = ClaraModel.generate_ids

    def counted(self, prompts, *args, **options):
        seen.append(len(prompts))
        return real(self, prompts, *args, **options)

    monkeypatch.setattr(ClaraModel, "generate_ids", counted)
    return seen


def together(clara: Clara, calls: list[Callable[[], Answer]]) -> list[Answer | Exception]:
    """What calls give that all wait for the model before any of them gets it."""
    loaded, waiting = clara.engine.loaded, clara.engine.loaded.gathering._waiting

    def outcome(call: Callable[[], Answer]) -> Answer | Exception:
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        with loaded.lock:
            futures = [pool.submit(outcome, call) for call in calls]
            end = time.monotonic() + 60
            while len(waiting) < len(calls) and time.monotonic() < end:
                time.sleep(0.01)
        return [future.result() for future in futures]


def asked(clara: Clara, question: str, count: int, **options: object) -> Callable[[], Answer]:
    """A call that needs the model for writing alone."""
    latents = clara.compress(TEXTS[:count])
    return lambda: clara.answer(question, latents, rerank=False, **{**SHORT, **options})


def test_who_waits_together_is_answered_in_one_batch(shared: ClaraModel, written: list[int]):
    clara = Clara(shared)
    calls = [asked(clara, question, count) for question in QUESTIONS for count in (1, 2, 3)]
    expected = [call() for call in calls]
    assert written == [1] * len(calls)
    written.clear()
    found = together(clara, calls)
    assert written == [len(calls)]
    assert [a.text for a in found] == [a.text for a in expected]
    assert [a.usage for a in found] == [a.usage for a in expected]
    assert all(a.timings.generate > 0 for a in found)
    assert not clara.engine.loaded.gathering._waiting


def test_who_ranks_first_is_answered_in_one_batch_too(shared: ClaraModel, written: list[int]):
    """Each needs the model twice: all encode their questions before the first writes, and finds the others waiting."""
    clara = Clara(shared)
    questions = [f"{question} {number}" for question in QUESTIONS for number in range(4)]
    expected = [clara.answer(question, TEXTS, **SHORT).text for question in questions]
    written.clear()
    lock = clara.engine.loaded.lock
    with ThreadPoolExecutor(len(questions)) as pool:
        with lock:
            found = [pool.submit(clara.answer, question, TEXTS, **SHORT) for question in questions]
            end = time.monotonic() + 60
            while len(lock._waiting) < len(questions) and time.monotonic() < end:
                time.sleep(0.01)
        assert [answer.result().text for answer in found] == expected
    assert written[0] > len(questions) // 2 and len(written) <= 3, written  # who was still ranking comes next


def test_only_like_is_put_together(shared: ClaraModel, written: list[int]):
    clara = Clara(shared)
    calls = [
        *(asked(clara, QUESTIONS[0], 1), asked(clara, QUESTIONS[1], 2)),
        *(asked(clara, QUESTIONS[0], 1, max_new_tokens=3), asked(clara, QUESTIONS[0], 1, temperature=0.7, seed=1)),
        lambda: clara.plain("Hello.", **SHORT),
    ]
    expected = [call().text for call in calls]
    written.clear()
    drawn = calls.pop(3)
    assert [answer.text for answer in together(clara, calls)] == expected[:3] + expected[4:]
    assert sorted(written) == [1, 1, 2]
    written.clear()
    assert drawn().text == expected[3] and written == [1]


def test_no_batch_is_larger_than_asked_for(shared: ClaraModel, written: list[int], monkeypatch: pytest.MonkeyPatch):
    clara = Clara(shared, batch_size=2)
    calls = [asked(clara, QUESTIONS[0], 1) for _ in range(5)]
    assert len({answer.text for answer in together(clara, calls)}) == 1
    assert sorted(written) == [1, 2, 2]
    written.clear()
    monkeypatch.setattr(pipeline, "GENERATE_TOKENS", 1)  # each alone is larger: nobody waits to be gathered
    assert calls[0]().text and written == [1]


def test_one_that_fails_takes_nobody_with_it(shared: ClaraModel, written: list[int], monkeypatch: pytest.MonkeyPatch):
    clara = Clara(shared)
    calls = [asked(clara, question, 1) for question in QUESTIONS]
    expected = [call().text for call in calls]
    too_long = asked(clara, "Too long?", 2)
    real = ClaraModel.check_positions

    def checked(self, prompts):
        if any(len(prompt) > longest for prompt in prompts):
            raise ClaraError("a prompt is too long")
        return real(self, prompts)

    longest = max(call().usage.prompt_tokens for call in calls)
    assert too_long().usage.prompt_tokens > longest
    monkeypatch.setattr(ClaraModel, "check_positions", checked)
    *found, failed = together(clara, [*calls, too_long])
    assert [answer.text for answer in found] == expected
    assert isinstance(failed, ClaraError) and str(failed) == "a prompt is too long"
    assert not clara.engine.loaded.gathering._waiting


def test_half_precision_on_a_cpu_is_answered_one_by_one(tiny_clara_folder: Path, written: list[int]):
    clara = Clara(ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.bfloat16, device="cpu"))
    calls = [asked(clara, question, 1) for question in QUESTIONS]
    with ThreadPoolExecutor(len(calls)) as pool:
        assert all(answer.text for answer in pool.map(lambda call: call(), calls))
    assert written == [1] * len(calls)


def test_a_call_that_is_interrupted_leaves_the_rest_waiting(shared: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    clara = Clara(shared)
    calls = [asked(clara, question, 1) for question in QUESTIONS]
    expected = [call().text for call in calls]
    real, interrupted = ClaraModel.generate_ids, threading.Event()

    def once(self, *args, **options):
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        return real(self, *args, **options)

    monkeypatch.setattr(ClaraModel, "generate_ids", once)
    loaded = clara.engine.loaded
    with ThreadPoolExecutor(len(calls)) as pool:
        with loaded.lock:
            futures = [pool.submit(call) for call in calls]
            while len(loaded.gathering._waiting) < len(calls):
                time.sleep(0.01)
        outcomes = [future.exception() or future.result().text for future in futures]
    assert sum(isinstance(outcome, KeyboardInterrupt) for outcome in outcomes) == 1
    assert all(text == want for text, want in zip(outcomes, expected, strict=True) if isinstance(text, str))

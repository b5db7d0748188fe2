"""One thread runs the passes of all callers: in order, in shared batches; who gives up leaves no trace."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from scheduling import busy, queued, until
from small_model import QUESTIONS, TEXTS

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.inference import pipeline
from clara_model.inference.clara import Answer, Clara
from clara_model.inference.scheduler import PATIENCE, CancelledError, Scheduler, Share

SHORT = {"max_new_tokens": 6}


@pytest.fixture
def scheduler():
    made = Scheduler()
    yield made
    made.close()


# -- the queue --------------------------------------------------------------------------------------------------------


def test_first_come_first_served_by_one_thread(scheduler: Scheduler):
    order: list[tuple[int, int]] = []
    threads = set()

    def work(items, _check):
        threads.add(threading.current_thread())
        order.extend(items)

    def caller(number: int) -> None:
        for turn in range(2):  # who has had a turn stands behind all who wait
            scheduler.run(work, [(turn, number)])

    with ThreadPoolExecutor(5) as pool:
        with busy(scheduler):
            for number in range(5):
                pool.submit(caller, number)
                queued(scheduler, number + 1)
    assert order[:5] == [(0, number) for number in range(5)] and len(order) == 10
    assert [thread.name for thread in threads] == ["clara-model"]


def test_a_result_comes_with_the_seconds_of_its_pass_and_an_error_as_it_was(scheduler: Scheduler):
    with ThreadPoolExecutor(1) as pool:
        with busy(scheduler):
            waiting = pool.submit(scheduler.run, lambda items, _: (time.sleep(0.05), sum(items))[1], [1, 2])
            time.sleep(0.3)
        made, seconds = waiting.result()
    assert made == 3 and 0.05 <= seconds < 0.3

    def broken(_items, _check):
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        scheduler.run(broken)
    assert scheduler.run(lambda *_: 5)[0] == 5


def test_like_jobs_that_fit_share_a_batch(scheduler: Scheduler):
    batches: list[list[str]] = []

    def work(items, _check):
        batches.append(items)
        return [item.upper() for item in items]

    def share(like: object = "greedy", width: int = 2) -> Share:
        return Share(like, width, positions=12, items=4)

    with busy(scheduler):
        jobs = [
            scheduler.submit(work, ["a", "b"], share()),
            scheduler.submit(work, ["c"], share("drawn")),
            scheduler.submit(work, ["d"]),
            scheduler.submit(work, ["e"], share(width=5)),  # 3 items of width 5 are more than 12 positions
            scheduler.submit(work, ["f"], share(width=3)),
            scheduler.submit(work, ["g", "h"], share()),  # would be five items
            scheduler.submit(work, ["i"], share()),
        ]
    assert [job.result(60) for job in jobs] == [["A", "B"], ["C"], ["D"], ["E"], ["F"], ["G", "H"], ["I"]]
    assert batches == [["a", "b", "f", "i"], ["c"], ["d"], ["e"], ["g", "h"]]


def test_one_that_fails_in_a_shared_batch_fails_alone(scheduler: Scheduler):
    def work(items, _check):
        if "bad" in items:
            raise ValueError("bad")
        return items

    with busy(scheduler):
        jobs = [scheduler.submit(work, [item], Share("", 1, 9)) for item in ("a", "bad", "b")]
    assert jobs[0].result(60) == ["a"] and jobs[2].result(60) == ["b"]
    assert isinstance(jobs[1].exception(60), ValueError)


def test_a_check_that_raises_takes_a_job_out_of_the_queue(scheduler: Scheduler):
    ran: list[str] = []

    def check() -> None:
        raise InterruptedError("nobody reads")

    with ThreadPoolExecutor(2) as pool:
        with busy(scheduler):
            ended = pool.submit(scheduler.run, lambda *_: ran.append("never"), check=check)
            after = pool.submit(scheduler.run, lambda *_: ran.append("after it"))
            assert isinstance(ended.exception(10 + 4 * PATIENCE), InterruptedError)
        after.result(60)
    assert ran == ["after it"] and not scheduler._queue


def test_a_pass_that_nobody_wants_ends_and_its_caller_waits_for_that(scheduler: Scheduler):
    ended = threading.Event()

    def endless(_items, check):
        try:
            while True:
                check()
                time.sleep(0.001)
        finally:
            time.sleep(0.05)
            ended.set()

    with ThreadPoolExecutor(1) as pool:
        went = threading.Event()

        def check() -> None:
            if went.is_set():
                raise InterruptedError

        waiting = pool.submit(scheduler.run, endless, check=check)
        until(lambda: bool(scheduler._running))
        went.set()
        assert isinstance(waiting.exception(60), InterruptedError) and ended.is_set()
    assert scheduler.run(lambda *_: 1)[0] == 1


def test_who_leaves_a_shared_batch_takes_nobody_along(scheduler: Scheduler):
    go, gone = threading.Event(), threading.Event()

    def work(items, check):
        go.set()
        assert gone.wait(60)
        check()
        return items

    def check() -> None:
        if go.is_set():
            raise InterruptedError

    share = Share("", 1, 9)
    with ThreadPoolExecutor(2) as pool:
        with busy(scheduler):
            leaves = pool.submit(scheduler.run, work, ["a"], share, check)
            queued(scheduler, 1)
            stays = pool.submit(scheduler.run, work, ["b"], share)
            queued(scheduler, 2)
        assert isinstance(leaves.exception(60), InterruptedError)  # at once, though the pass goes on
        gone.set()
        assert stays.result(60)[0] == ["b"]


def test_the_callers_number_of_cpu_threads_holds(scheduler: Scheduler):
    before = torch.get_num_threads()
    try:
        for number in (1, 2, 1):
            torch.set_num_threads(number)
            assert scheduler.run(lambda *_: torch.get_num_threads())[0] == number
    finally:
        torch.set_num_threads(before)


def test_closing_stops_what_runs_and_starts_nothing():
    scheduler, started = Scheduler(), threading.Event()

    def endless(_items, check):
        started.set()
        while True:
            check()

    running, waiting = scheduler.submit(endless), scheduler.submit(lambda *_: 1)
    assert started.wait(60)
    thread = scheduler._thread
    scheduler.close()
    assert not thread.is_alive()
    assert not running.done() and not waiting.done()
    with pytest.raises(CancelledError):
        scheduler.run(lambda *_: 1)


def test_what_a_job_holds_is_let_go_of_before_its_result_is_there(scheduler: Scheduler):
    class Weights:
        pass

    for fails in (False, True):
        held = Weights()
        gone = weakref.ref(held)

        def work(_items, _check, held=held, fails=fails):
            if fails:
                raise ValueError
            return 1

        del held
        job = scheduler.submit(work)
        del work
        assert job.exception(60) is None or fails
        if fails:
            del job  # the error's traceback
            gc.collect()
        assert gone() is None


# -- the thread and the model -----------------------------------------------------------------------------------------


def test_the_thread_ends_with_its_model(tiny_clara_folder: Path):
    model = ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")
    clara = Clara(model)
    clara.compress(TEXTS)
    thread = clara.shared.scheduler._thread
    assert thread.is_alive() and Clara(model).shared.scheduler is clara.shared.scheduler
    clara.close()
    del model, clara
    gc.collect()
    assert not thread.is_alive()


INTERRUPTED = """
    import os, signal, threading, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    from clara_model import Clara
    clara = Clara.load({model!r}, dtype="float32", device="cpu")
    how = dict(min_new_tokens=1900, max_new_tokens=1900)
    def press():
        while not (clara.shared.scheduler._running and clara.shared.scheduler._running[0].items):
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=press, daemon=True).start()
    {before}
    clara.plain("Hello.", **how)
"""


@pytest.mark.parametrize(
    "before", ["", "threading.Thread(target=clara.plain, args=('Bye.',), kwargs=how, daemon=True).start()"]
)
def test_ctrl_c_ends_a_process_in_the_middle_of_a_generation(tiny_clara_folder: Path, before: str):
    source = textwrap.dedent(INTERRUPTED).format(model=str(tiny_clara_folder), before=before)
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert ran.returncode in (-signal.SIGINT, 130) and ran.stderr.rstrip().endswith("KeyboardInterrupt"), ran.stderr


@pytest.fixture
def sigint_interrupts() -> Iterator[None]:
    """It is ignored where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_interrupts")
def test_ctrl_c_takes_the_job_of_the_main_thread_alone(shared: ClaraModel, written: list[int]):
    clara = Clara(shared)
    calls = [asked(clara, question, 1) for question in QUESTIONS]
    expected = [call().text for call in calls]
    written.clear()
    with ThreadPoolExecutor(len(calls)) as pool:
        with busy(clara.shared.scheduler) as go:
            futures = [pool.submit(call) for call in calls]
            queued(clara.shared.scheduler, len(calls))

            def press() -> None:
                queued(clara.shared.scheduler, len(calls) + 1)
                os.kill(os.getpid(), signal.SIGINT)

            pressing = threading.Thread(target=press)
            pressing.start()
            with pytest.raises(KeyboardInterrupt):
                clara.plain("Hello.", **SHORT)
            pressing.join()
            go.set()
        assert [future.result().text for future in futures] == expected
    assert sum(written) == len(calls)


# -- answers of callers that wait together ----------------------------------------------------------------------------


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

    def outcome(call: Callable[[], Answer]) -> Answer | Exception:
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        with busy(clara.shared.scheduler):
            futures = [pool.submit(outcome, call) for call in calls]
            queued(clara.shared.scheduler, len(calls))
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
    assert not clara.shared.scheduler._queue


def test_who_ranks_first_is_answered_in_one_batch_too(shared: ClaraModel, written: list[int]):
    """Each needs the model twice: all encode their questions before the first writes, and finds the others waiting."""
    clara = Clara(shared)
    questions = [f"{question} {number}" for question in QUESTIONS for number in range(4)]
    expected = [clara.answer(question, TEXTS, **SHORT).text for question in questions]
    written.clear()
    with ThreadPoolExecutor(len(questions)) as pool:
        with busy(clara.shared.scheduler):
            found = [pool.submit(clara.answer, question, TEXTS, **SHORT) for question in questions]
            queued(clara.shared.scheduler, len(questions))
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
    assert not clara.shared.scheduler._queue


def test_half_precision_on_a_cpu_is_answered_one_by_one(tiny_clara_folder: Path, written: list[int]):
    clara = Clara(ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.bfloat16, device="cpu"))
    calls = [asked(clara, question, 1) for question in QUESTIONS]
    with ThreadPoolExecutor(len(calls)) as pool:
        assert all(answer.text for answer in pool.map(lambda call: call(), calls))
    assert written == [1] * len(calls)

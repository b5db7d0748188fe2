"""The runner under trouble: memory that ends, questions that fail, everything failing."""

from collections.abc import Sequence
from pathlib import Path

import eval_rows
import pytest
import torch

from clara_model.errors import ClaraError
from trainers.evaluation.measuring import Meter
from trainers.evaluation.questions import Pool, Question
from trainers.evaluation.records import Record
from trainers.evaluation.runner import Runner


def runner(folder: Path, count: int = 10, **options: object) -> Runner:
    pool = Pool(["text"], [0])
    questions = [Question(number=n, text="q", references=("a",), pool=pool, source=f"f:{n + 1}") for n in range(count)]
    return Runner(questions, folder, torch.device("cpu"), **options)


def test_a_batch_that_fails_is_tried_question_by_question_and_the_next_one_whole(tmp_path: Path, caplog):
    sizes: list[int] = []

    def answering(questions: Sequence[Question], meter: Meter) -> list[Record]:
        sizes.append(len(questions))
        if len(questions) == 4 and questions[0].number == 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [eval_rows.record(question.number) for question in questions]

    records = runner(tmp_path, batch_size=4).record("clara", answering)
    assert [one.number for one in records] == list(range(10)) and not any(one.failed for one in records)
    assert sizes == [4, 1, 1, 1, 1, 4, 2]
    assert "4 questions are tried one by one, since together they failed: OutOfMemoryError: CUDA out" in caplog.text


def test_one_bad_question_spoils_no_other(tmp_path: Path, caplog):
    def answering(questions: Sequence[Question], meter: Meter) -> list[Record]:
        if any(question.number == 3 for question in questions):
            raise ValueError("this one is bad")
        return [eval_rows.record(question.number) for question in questions]

    records = runner(tmp_path, batch_size=4).record("clara", answering)
    assert [one.number for one in records if one.failed] == [3]
    assert (records[3].answer, records[3].error, records[3].source) == (None, "ValueError: this one is bad", "f:4")
    assert "f:4 failed: ValueError: this one is bad" in caplog.text


def test_when_everything_fails_the_first_reason_is_the_error(tmp_path: Path):
    def answering(questions: Sequence[Question], meter: Meter) -> list[Record]:
        raise ClaraError("no slots fit")

    with pytest.raises(ClaraError, match="clara: every question failed; the first with: ClaraError: no slots fit"):
        runner(tmp_path, 2).record("clara", answering)


def test_a_mistake_of_the_program_is_no_failure_of_a_question(tmp_path: Path):
    def answering(questions: Sequence[Question], meter: Meter) -> list[Record]:
        raise KeyError("typo")

    with pytest.raises(KeyError):
        runner(tmp_path).record("clara", answering)

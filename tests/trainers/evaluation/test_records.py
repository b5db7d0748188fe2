"""Records on the disk: whole lines, failures tried again, parts of several processes in one order."""

from pathlib import Path

import eval_rows
import pytest

from clara_model.errors import ClaraError
from trainers.evaluation.records import Record, Records, read_records


def test_a_line_that_was_not_written_whole_is_written_again(tmp_path: Path):
    records = Records(tmp_path, "clara")
    records.append([eval_rows.record(0), eval_rows.record(1)])
    part = next(tmp_path.glob("clara.part*.jsonl"))
    part.write_bytes(part.read_bytes()[:-30])  # killed in the middle of a line
    assert list(records.read()) == [0]
    records.append([eval_rows.record(1, 0.5)])
    assert [one.scores["f1"] for one in records.merge(2)] == [1.0, 0.5]
    assert list(tmp_path.iterdir()) == [tmp_path / "clara.jsonl"]
    assert [one.number for one in read_records(records.path)] == [0, 1]


def test_parts_become_one_in_the_order_of_the_questions(tmp_path: Path):
    for process in (1, 0):
        Records(tmp_path, "bi:some/model", process).append(eval_rows.record(n) for n in range(process, 5, 2))
    assert [one.number for one in Records(tmp_path, "bi:some/model").merge(5)] == list(range(5))
    with pytest.raises(ClaraError, match=r"1 questions are missing .*the first is 5"):
        Records(tmp_path, "bi:some/model").merge(6)


def test_a_failure_is_tried_again_and_never_replaces_an_answer(tmp_path: Path):
    failed = Record(number=0, question="q", error="ClaraError: no")
    records = Records(tmp_path, "text")
    records.append([failed, eval_rows.record(1)])
    assert records.merge(2)[0].failed
    assert list(records.read()) == [1]
    records.append([eval_rows.record(0)])
    assert not any(one.failed for one in records.merge(2))
    records.append([failed])
    assert not any(one.failed for one in records.merge(2))


def test_damage_inside_a_file_is_named(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text('{"number": 0\n{"number": 1, "question": ""}\n')
    with pytest.raises(ClaraError, match=r"x\.jsonl:1 is damaged"):
        list(read_records(tmp_path / "x.jsonl"))

"""Any two systems against each other: on common questions, with p-values, in every form of table."""

import csv
import io

import eval_rows
import pytest

from trainers.evaluation import report
from trainers.evaluation.records import Record
from trainers.evaluation.summary import summarize


@pytest.fixture
def summary() -> dict:
    """Three systems on twelve questions: two alike, of which one failed once, and one that is always wrong."""
    failed = Record(number=3, question="q3", error="ClaraError: ..", cluster="3")
    bm25 = [eval_rows.record(number, float(number % 2)) for number in range(12)]
    records = {
        "clara": [failed if one.number == 3 else one for one in bm25],
        "bm25": bm25,
        "closed": [eval_rows.record(number, 0.0) for number in range(12)],
    }
    asked = {"model": "m", "dataset": "d", "setting": "normal", "stage": "stage2", "top_k": 5, "rate": 4}
    return {"asked": asked, "environment": {}, **summarize(records)}


def test_every_two_systems_meet_on_the_questions_that_both_answered(summary: dict):
    found = {(pair["system"], pair["other"]): pair for pair in summary["pairs"]}
    assert found.keys() == {("clara", "bm25"), ("clara", "closed"), ("bm25", "closed")}
    assert (found["clara", "bm25"]["value"], found["clara", "bm25"]["p"]) == (0.0, 1.0)
    assert (found["clara", "closed"]["value"], found["clara", "closed"]["questions"]) == (pytest.approx(5 / 11), 11)
    one = found["bm25", "closed"]
    assert (one["value"], one["questions"]) == (0.5, 12) and one["low"] < 0.5 < one["high"]
    assert one["p"] == pytest.approx(2 / 2**6)  # six questions differ, all one way: 2 of the 64 signs are as extreme


def test_the_tables_show_them(summary: dict):
    assert report.pairs_grid(summary)[2] == ["bm25", "", "+0.500 (0.031)"]
    assert "| bm25 |  | +0.500 (0.031) |" in report.pairs_markdown(summary)
    assert len(report.terminal(summary)) == 2
    rows = {(row["system"], row["figure"]): row["value"] for row in csv.DictReader(io.StringIO(report.as_csv(summary)))}
    assert float(rows["bm25", "f1 against closed"]) == 0.5
    assert float(rows["bm25", "f1 against closed, p"]) == pytest.approx(0.03125)


def test_two_systems_need_no_second_table(summary: dict):
    two = {**summary, "systems": {name: summary["systems"][name] for name in ("clara", "closed")}}
    assert len(report.terminal(two)) == 1 and report.pairs_markdown(two) == ""
    old = {name: value for name, value in summary.items() if name != "pairs"}  # figures of an earlier version
    assert report.pairs_grid(old) == [] and report.pairs_markdown(old) == ""

"""The report: a page that needs nothing beside it, pictures that are drawn, worst questions, tables in a page."""

import json
import re
from pathlib import Path

import eval_rows
import pytest

from trainers.evaluation import pictures, report
from trainers.evaluation.cli import main

HOSTILE = "<script>alert(1)</script> $x_1$ | pipe"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_clara_folder: Path) -> Path:
    """Two evaluations of four hostile questions."""
    folder = tmp_path_factory.mktemp("report")
    rows = [{**json.loads(line)} for line in eval_rows.questions(folder, 4).read_text().splitlines()]
    for row in rows:
        row["question"] = HOSTILE + row["question"]
        row["docs"] = [HOSTILE + text for text in row["docs"]]
    (folder / "hostile.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for setting in ("normal", "oracle"):
        words = ["--dataset", str(folder / "hostile.jsonl"), "--model", str(tiny_clara_folder), "--setting", setting]
        assert main([*words, "--out", str(folder / "out"), *eval_rows.RANDOM]) == 0
    return folder / "out"


def test_the_page_holds_everything_and_runs_nothing(measured: Path, capsys):
    assert main(["report", str(measured)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    assert {path.name for path in written} == {
        *("report.html", "rates.png", "ranking.png", "answers.png", "places.png", "costs.png"),
    }
    assert all(path.read_bytes()[1:4] == b"PNG" for path in written[1:])
    text = (measured / "report.html").read_text()
    assert text.count('src="data:image/png;base64,') == 5
    assert not re.search(r"https?:|<script|<link", text)
    assert text.count("<h2>") == 2 and "&lt;script&gt;alert(1)" in text
    assert "<details>" in text and "(gold)" in text and "read, best first" in text


def test_worst_are_the_questions_on_which_latents_lost_most():
    ours = [eval_rows.record(0, 0.5), eval_rows.record(1, 0.0), eval_rows.record(2, 0.0), eval_rows.record(3, 1.0)]
    text = [eval_rows.record(0, 1.0), eval_rows.record(1, 0.0), eval_rows.record(2, 0.9), eval_rows.record(3, 1.0)]
    found = report.worst({"clara": ours, "text": text})
    assert [(lost, one.number) for lost, one, _ in found] == [(0.9, 2), (0.5, 0), (0.0, 1)]
    assert [one.number for _, one, _ in report.worst({"clara": ours})] == [1, 2, 0]


def test_a_folder_without_evaluations_is_one_sentence(tmp_path: Path, capsys):
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "holds no evaluation" in capsys.readouterr().err


def test_a_line_joins_the_rates_of_one_base(measured: Path, tmp_path: Path):
    (one, _) = report.summaries_in(measured).values()
    at = [{**one, "asked": {**one["asked"], "model": f"m{rate}", "rate": rate, "base": base}}
          for rate, base in ((2, "a"), (4, "a"), (8, "b"))]  # fmt: skip
    curves = pictures._curves([(float(summary["asked"]["rate"]), summary) for summary in at], "f1")
    f1 = one["systems"]["clara"]["metrics"]["f1"]["value"]
    assert curves == [([2.0, 4.0], [f1, f1]), ([8.0], [f1])]
    assert one["asked"]["base"]  # which a line is drawn by
    assert pictures.rates(at, tmp_path / "rates.png") and (tmp_path / "rates.png").read_bytes()[1:4] == b"PNG"

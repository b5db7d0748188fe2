"""The controls ``wrong`` and ``shuffled``, and how much of F1 is read from the latents."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import eval_rows
import pytest
import training_rows

from clara_model import Clara
from clara_model.checkpoint.files import BUNDLED
from trainers.evaluation import report
from trainers.evaluation.cli import main
from trainers.evaluation.records import Record, read_records
from trainers.evaluation.summary import summarize

ASKED = {
    "model": "m",
    "dataset": "d",
    "setting": "normal",
    "stage": "stage2",
    "top_k": 5,
    "rate": 4,
    "slots": 8,
    "base": "b",
}


def measure(folder: Path, checkpoint: str | Path, dataset: Path, *more: str) -> Path:
    """The folder of the one evaluation."""
    words = ["--dataset", str(dataset), "--model", str(checkpoint), "--out", str(folder / "out")]
    assert main([*words, *eval_rows.RANDOM, *more]) == 0
    (found,) = (folder / "out").glob("*/summary.json")
    return found.parent


def answers_of(folder: Path, system: str) -> list[Record]:
    return list(read_records(folder / f"{system.replace(':', '-')}.jsonl"))


def test_wrong_memory_is_what_the_next_question_reads_and_text_stays_right(tmp_path: Path, tiny_clara_folder: Path):
    rows, places = training_rows.question_rows(4), [0, 1, 2, 3]
    rows[1]["docs"][3] = rows[0]["docs"][rows[0]["pos_index"][0]]  # the next question is offered the first one's gold
    file = training_rows.write(tmp_path / "rows.jsonl", rows)
    folder = measure(tmp_path, tiny_clara_folder, file, "--systems", "clara,wrong", "--expand", "1")
    right, asked = answers_of(folder, "clara"), [row["question"] for row in rows]
    gold = [row["docs"][row["pos_index"][0]] for row in rows]
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        for system, expand in (("wrong", 0), ("wrong:1", 1)):
            found = answers_of(folder, system)
            for place, one in zip(places, found, strict=True):
                other, mine = right[(place + 1) % 4], {*right[place].shown, gold[place]}
                docs = rows[other.number]["docs"]
                texts = [docs[n] for n in other.ranking if docs[n] not in mine][:2]
                assert one.shown == texts and one.read == one.ranking == [] and one.order == right[place].order
                chosen = [rows[place]["docs"][n] for n in right[place].read]
                memory = replace(clara.compress(chosen), vectors=clara.compress(texts).vectors)
                ours = Clara(clara.model, expand=expand)
                (answer,) = ours.answers([asked[place]], [memory], 2, rerank=False, max_new_tokens=4)
                assert one.answer == answer.text.strip()
    assert [one.answer for one in answers_of(folder, "wrong")] != [one.answer for one in right]


def test_shuffled_memory_has_the_same_slots_in_another_order(tmp_path: Path, tiny_clara_folder: Path, monkeypatch):
    given: dict[int, list] = {}
    answers = Clara.answers

    def noting(self, questions, latents, *rest, **options):
        given.setdefault(len(given), []).extend(one.vectors for one in latents)
        return answers(self, questions, latents, *rest, **options)

    monkeypatch.setattr(Clara, "answers", noting)
    file = eval_rows.questions(tmp_path, 3)
    folder = measure(tmp_path, tiny_clara_folder, file, "--systems", "clara,shuffled")
    for right, shuffled in zip(given[0], given[1], strict=True):
        for one, other in zip(right, shuffled, strict=True):
            assert not one.equal(other)
            assert sorted(one.tolist()) == sorted(other.tolist())
    one, other = answers_of(folder, "clara"), answers_of(folder, "shuffled")
    assert [record.shown for record in one] == [record.shown for record in other]


def test_clara_tiny_answers_from_its_memory(tmp_path: Path):
    demo = json.loads((BUNDLED / "demo.json").read_text(encoding="utf-8"))
    texts = [document["text"] for document in demo["documents"]]
    rows = []
    for entry in demo["questions"]:
        (gold,) = [n for n, one in enumerate(demo["documents"]) if one["title"].lower() in entry["question"].lower()]
        rows.append({**entry, "docs": texts, "pos_index": [gold]})
    file = training_rows.write(tmp_path / "rows.jsonl", rows)
    folder = measure(tmp_path, "clara-tiny", file, "--systems", "clara,wrong", "--max_new_tokens", "16")
    found = json.loads((folder / "summary.json").read_text())["systems"]
    assert found["wrong"]["metrics"]["f1"]["value"] <= 0.25
    assert found["clara"]["read_from_memory"]["value"] >= 0.5


@pytest.fixture
def summary() -> dict:
    """Six questions, half of them answered without memory too; with a passage as text only one needs it."""
    f1 = {"clara": (1, 1, 1, 0.5, 0.5, 0), "wrong": (1, 1, 1, 0, 0, 0.25), "closed": (0,) * 6}
    f1 |= {"clara:1": (1,) * 6, "wrong:1": (1, 1, 1, 1, 1, 0), "clara:2": (1,) * 6}
    records = {
        name: [eval_rows.record(number, float(value), ranking=[0] * (kind != "wrong"), seconds=seconds, order=[0, 1])
               for number, value in enumerate(values)]
        for name, values in f1.items()
        for kind, seconds in [(name.partition(":")[0], {"query": 0.01, "rank": 0.04} if name != "closed" else {})]
    }  # fmt: skip
    return {"asked": ASKED, "environment": {}, **summarize(records)}


def test_what_is_read_from_memory_is_right_less_wrong_with_its_interval(summary: dict):
    systems = summary["systems"]
    found = systems["clara"]["read_from_memory"]
    assert found["value"] == pytest.approx((0.5 + 0.5 - 0.25) / 6) and found["low"] < found["value"] < found["high"]
    assert systems["clara:1"]["read_from_memory"]["value"] == pytest.approx(1 / 6)
    assert {name for name, one in systems.items() if one["read_from_memory"] is None} == {
        *("wrong", "wrong:1", "closed", "clara:2")  # of the last one no wrong memory was measured
    }
    assert not any("wrong" in pair["system"] + pair["other"] for pair in summary["pairs"])  # no rival
    assert report.pairs_grid(summary)[0][1:] == ["closed", "clara:1", "clara:2"]


def test_it_is_the_first_column_behind_f1_in_every_form(summary: dict, tmp_path: Path):
    titles, first, *_ = report.grid(summary)
    place = titles.index("F1") + 1
    assert titles[place] == "read from memory" and first[place].startswith("0.125 [")
    assert f"| {first[place]} |" in report.markdown(summary)
    rows = {(row["system"], row["figure"]): row["value"] for row in csv.DictReader(io.StringIO(report.as_csv(summary)))}
    assert float(rows["clara", "read_from_memory_f1"]) == pytest.approx(0.125)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "summary.json").write_text(json.dumps(summary))
    page, *_ = report.write(tmp_path)
    assert "<th>F1</th><th>read from memory</th>" in page.read_text() and first[place] in page.read_text()


def test_pairs_a_second_count_what_is_done_for_a_question(summary: dict):
    assert summary["systems"]["clara"]["pairs_per_second"] == pytest.approx(2 / 0.05)  # two passages in 50 ms
    assert summary["systems"]["closed"]["pairs_per_second"] is None
    titles, first, *_ = report.grid(summary)
    assert first[titles.index("pairs/s")] == "40"


def test_one_question_alone_has_no_wrong_memory(tmp_path: Path, tiny_clara_folder: Path, capsys):
    folder = measure(tmp_path, tiny_clara_folder, eval_rows.questions(tmp_path, 1))
    assert {path.stem for path in folder.glob("*.jsonl")} == {"clara", "shuffled", "closed", "text", "first", "bm25"}
    words = ["--dataset", str(tmp_path / "questions.jsonl"), "--model", str(tiny_clara_folder), *eval_rows.RANDOM]
    assert main([*words, "--systems", "wrong", "--out", str(tmp_path / "other")]) == 2
    assert "there is no wrong memory; leave out 'wrong'" in capsys.readouterr().err

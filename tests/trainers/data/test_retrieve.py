"""`clara-data retrieve`: rows without documents get candidates from a store, and stage 3 learns from them."""

import json
from pathlib import Path

import pytest
import training_rows

from clara_model import Clara, ClaraModel
from clara_model.errors import ClaraError
from trainers.data import cli as data_cli
from trainers.data.jsonl import decode, lines_of
from trainers.data.retrieve import Retriever
from trainers.data.rows import read_rows
from trainers.training.run import train

TEXTS = training_rows.documents(30)
QUESTIONS = [{"question": f"Who came in {1700 + n}?", "answer": TEXTS[n].split(" came")[0]} for n in range(6)]


@pytest.fixture(scope="module")
def store(tiny_clara_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 passages, compressed by the small random checkpoint."""
    folder = tmp_path_factory.mktemp("store") / "latents"
    with Clara.load(tiny_clara_folder, store=folder) as clara:
        clara.compress(TEXTS)
    return folder


@pytest.fixture
def run(tiny_clara_folder: Path, store: Path, tmp_path: Path, capsys):
    """Run it on some rows: exit code, standard output, standard error, the rows that came out."""

    def main(rows, *more, model=tiny_clara_folder, folder=store):
        file, out = training_rows.write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
        words = ["retrieve", file, "--store", folder, "--model", model, "--out", out, *more]
        code = data_cli.main([str(word) for word in words])
        rows = [decode(line) for _, line in lines_of(out)] if out.exists() else []
        return (code, *capsys.readouterr(), rows)

    return main


def test_a_row_without_documents_gets_what_the_search_finds(run, tiny_clara_folder: Path, store: Path):
    code, out, _, rows = run([{**row, "id": n} for n, row in enumerate(QUESTIONS)], "--candidates", 5, "--json")
    assert code == 0
    assert json.loads(out)["candidates from the store"] == 30
    with Clara.load(tiny_clara_folder, store=store) as clara:
        for number, (row, asked) in enumerate(zip(rows, QUESTIONS, strict=True)):
            assert row == {**asked, "id": number, "docs": [one.text for one in clara.search(asked["question"], 5)]}


def test_documents_of_the_row_stay_in_front_and_no_candidate_answers_beside_the_gold_one(run):
    given = {"question": "Who came in 1703?", "docs": ["A bare one.", TEXTS[3]], "pos_index": [1]}
    answer = TEXTS[3].split(" came")[0]
    code, _, _, (row,) = run([{**given, "gold_answer": answer}], "--candidates", 8)
    assert code == 0
    assert row["docs"][:2] == given["docs"] and row["pos_index"] == [1]
    assert len(row["docs"]) == len(set(row["docs"])) == 8
    assert not any(answer in text for text in row["docs"][2:])


def test_a_row_with_enough_documents_is_left_as_it_is(run):
    row = {**QUESTIONS[0], "docs": TEXTS[:6]}
    assert run([row], "--candidates", 5)[3] == [row]


def test_a_checkpoint_before_stage_3_takes_words(run, pretrained: Path, tmp_path: Path):
    with Clara.load(pretrained, store=tmp_path / "other") as clara:
        clara.compress(TEXTS)
    one = {"model": pretrained, "folder": tmp_path / "other"}
    code, _, err, _ = run(QUESTIONS, **one)
    assert code == 2 and "has no query reasoner to search with" in err and "--by bm25" in err
    code, _, _, rows = run(QUESTIONS, "--by", "bm25", "--candidates", 3, **one)
    assert code == 0
    assert [row["docs"][0] for row in rows] == TEXTS[:6]  # the year stands in one passage alone


def test_stage_3_learns_from_such_rows(run, tiny_clara_folder: Path, tmp_path: Path):
    run(QUESTIONS, "--candidates", 5)
    start = {"pretrain_checkpoint": tiny_clara_folder, "dataset": tmp_path / "out.jsonl", "max_steps": 1}
    folder = train(training_rows.config("end_to_end", tmp_path / "trained", **start))
    assert ClaraModel.from_pretrained(folder, device="cpu").config.stage == "end_to_end"


def test_stage2_mips_names_the_command_and_rows_without_documents_too(tmp_path: Path, tiny_clara_folder: Path):
    file = training_rows.write(tmp_path / "bare.jsonl", QUESTIONS)
    with pytest.raises(ClaraError, match="clara-data retrieve takes documents from a store"):
        read_rows([file])
    config = training_rows.config(
        "end_to_end", tmp_path, pretrain_checkpoint=tiny_clara_folder, dataset=file, stage2_mips=True
    )
    assert config.ignored == ("stage2_mips",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": ["a", "b"], "answers": ["a", "b"]}, "in.jsonl:1: candidates are searched for one question"),
        ({"data_type": "paraphrase", "answers": ["a"]}, "one question in each row"),
        ({"question": " ", "answer": "a"}, "which is not blank"),
        ({"question": "Who?"}, 'in.jsonl:1: an "answer" string'),
    ],
)
def test_rows_that_cannot_be_filled(run, row, message):
    code, _, err, rows = run([row])
    assert (code, rows) == (2, []) and message in err


def test_what_cannot_be_searched(run, tmp_path: Path):
    code, _, err, _ = run(QUESTIONS, folder=tmp_path / "nowhere")
    assert code == 2 and "nowhere does not exist; make it with: clara compress" in err
    assert "candidates must be at least 1, got 0" in run(QUESTIONS, "--candidates", 0)[2]
    with pytest.raises(ClaraError, match="nothing was found in the store for the question 'Who"):
        Retriever(lambda question, count: [])._filled(QUESTIONS[0])


def test_a_store_without_texts(tiny_clara_folder: Path, run, tmp_path: Path):
    from clara_model.store import open_store

    with Clara.load(tiny_clara_folder, store=open_store(tmp_path / "bare", keep_text=False)) as clara:
        clara.compress(TEXTS[:3])
    code, _, err, _ = run(QUESTIONS, folder=tmp_path / "bare")
    assert code == 2 and "keeps no texts, so that rows cannot be filled" in err

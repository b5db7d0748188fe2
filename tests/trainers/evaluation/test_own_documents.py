"""A user's own questions and documents in one command: compressed once into a store, then searched."""

import json
from pathlib import Path

import eval_rows
import pytest
import training_rows

from clara_model import Clara
from trainers.evaluation.cli import main
from trainers.evaluation.questions import Pool, read_own
from trainers.evaluation.records import read_records


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of documents, and questions about them."""
    (tmp_path / "letters").mkdir()
    texts = training_rows.documents(12)
    for number in range(4):
        (tmp_path / "letters" / f"{number}.txt").write_text("\n".join(texts[3 * number : 3 * number + 3]))
    rows = [{"question": f"Who came in {1700 + n}?", "answer": texts[n].split(" came")[0]} for n in range(5)]
    training_rows.write(tmp_path / "questions.jsonl", rows)
    return tmp_path


def measure(own: Path, checkpoint: Path, *more: str) -> int:
    words = ["--dataset", str(own / "questions.jsonl"), "--model", str(checkpoint), "--out", str(own / "out")]
    return main([*words, *eval_rows.RANDOM, *more])


def summary(own: Path) -> dict:
    (found,) = (own / "out").glob("*/summary.json")
    return json.loads(found.read_text())


def test_one_command_compares_on_ones_own_documents(own: Path, tiny_clara_folder: Path, capsys):
    assert measure(own, tiny_clara_folder, "--docs", str(own / "letters")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "an answer from latents" in shown and "answer@5" in shown
    found = summary(own)
    assert found["systems"].keys() == {"clara", "wrong", "shuffled", "closed", "text", "bm25"}
    assert found["compressed"]["passages"] > 4 and found["break_even"]["once"] > 0
    folder = next((own / "out").glob("*/clara.jsonl")).parent
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu", store=str(own / "out" / "latents")) as clara:
        for one in read_records(folder / "clara.jsonl"):
            results = clara.search(one.question, 2)
            answer = clara.answer(one.question, results.latents, 2, rerank=False, max_new_tokens=4)
            assert (one.answer, one.shown) == (answer.text.strip(), [hit.text for hit in results])
    found = list(read_records(folder / "bm25.jsonl"))
    assert all(one.answer_at == 1 for one in found)  # the year stands in one passage alone


def test_a_store_that_is_there_is_asked_about_and_nothing_is_compressed(own: Path, tiny_clara_folder: Path, capsys):
    store = str(own / "store")
    assert measure(own, tiny_clara_folder, "--docs", str(own / "letters"), "--store", store, "--systems", "clara") == 0
    capsys.readouterr()
    words = ("--store", store, "--systems", "clara,text", "--out", str(own / "again"))
    assert measure(own, tiny_clara_folder, *words) == 0
    assert "the documents were compressed before" in " ".join(capsys.readouterr().out.split())
    one, two = (next((own / name).glob("*/clara.jsonl")) for name in ("out", "again"))
    assert [r.answer for r in read_records(one)] == [r.answer for r in read_records(two)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "questions without docs need --docs or --store"),
        (("--docs", "letters", "--systems", "first"), "a corpus has no order of retrieval"),
        (("--docs", "letters", "--setting", "oracle"), "want --setting normal"),
        (("--docs", "nowhere"), "nowhere does not exist"),
    ],
)
def test_what_does_not_go_with_ones_own_documents(
    own: Path, tiny_clara_folder: Path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(own)
    assert measure(own, tiny_clara_folder, *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("answer", [{"answer": "Ann"}, {"answer": ["Ann", "Anne"]}, {"answers": ["Ann", "Anne"]}])
def test_an_answer_is_one_or_a_list_of_all_that_count(tmp_path: Path, answer: dict):
    file = training_rows.write(tmp_path / "own.jsonl", [{"question": "Who?", **answer}])
    (found,) = read_own([file], Pool(["Ann came."], [0], shared=True))
    (accepted,) = answer.values()
    assert found.references == ((accepted,) if isinstance(accepted, str) else tuple(accepted))

"""``clara-eval`` on the small random model: what it prints and writes, that it goes on, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path

import eval_rows
import pytest
import training_rows

from clara_model import Clara
from clara_model.inference import pipeline
from trainers.evaluation.cli import main
from trainers.evaluation.records import read_records


def measure(folder: Path, checkpoint: Path, dataset: Path, *more: str) -> int:
    words = ["--dataset", str(dataset), "--model", str(checkpoint), "--out", str(folder / "out")]
    return main([*words, *eval_rows.RANDOM, *more])


def run_folder(folder: Path) -> Path:
    """The one evaluation in an output folder."""
    (found,) = (folder / "out").glob("*/summary.json")
    return found.parent


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_clara_folder: Path) -> Path:
    """A folder with a finished evaluation of six questions."""
    folder = tmp_path_factory.mktemp("measured")
    assert measure(folder, tiny_clara_folder, eval_rows.questions(folder), "--batch_size", "4") == 0
    return folder


def test_answers_are_those_of_clara(measured: Path, tiny_clara_folder: Path):
    records = list(read_records(run_folder(measured) / "clara.jsonl"))
    rows = training_rows.question_rows(6)
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        answers = clara.answers([row["question"] for row in rows], [row["docs"] for row in rows], max_new_tokens=4)
    assert [one.answer for one in records] == [one.text.strip() for one in answers]
    assert [one.ranking for one in records] == [[ranked.index for ranked in one.ranking] for one in answers]
    assert [one.read for one in records] == [one.selected for one in answers]
    assert [one.prompt_tokens for one in records] == [one.usage.prompt_tokens for one in answers]
    assert all(one.seconds["generate"] > 0 and one.peak_bytes["generate"] > 0 for one in records)


def test_passages_as_text_beside_latents_and_the_best_alone(tmp_path: Path, tiny_clara_folder: Path):
    rows = [dict(row, docs=training_rows.documents(5)) for row in training_rows.question_rows(4)]
    file = training_rows.write(tmp_path / "rows.jsonl", rows)
    rest = ("--systems", "clara,best,text", "--expand", "0,1,2", "--ranking", "hybrid", "--batch_size", "2")
    assert measure(tmp_path, tiny_clara_folder, file, *rest) == 0
    folder, asked = run_folder(tmp_path), [row["question"] for row in rows]
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        for system, expand, top_k in (
            ("clara", 0, 2),
            ("clara:0", 0, 2),
            ("clara:1", 1, 2),
            ("clara:2", 2, 2),
            ("best", 1, 1),
        ):
            ours = Clara(clara.model, ranking="hybrid", expand=expand)
            answers = ours.answers(asked, [row["docs"] for row in rows], top_k, max_new_tokens=4)
            records = list(read_records(next(folder.glob(f"{system.replace(':', '*')}.jsonl"))))
            assert [one.answer for one in records] == [one.text.strip() for one in answers]
            assert [one.ranking for one in records] == [[ranked.index for ranked in one.ranking] for one in answers]
            assert [one.prompt_tokens for one in records] == [one.usage.prompt_tokens for one in answers]
            assert [one.text_tokens for one in records] == [one.usage.text_tokens for one in answers]
    assert measure(tmp_path, tiny_clara_folder, file, "--ranking", "latents") == 2  # another evaluation's folder


def test_answers_that_are_copied(tmp_path: Path, tiny_clara_folder: Path):
    rows = [dict(row, docs=training_rows.documents(5)) for row in training_rows.question_rows(4)]
    file = training_rows.write(tmp_path / "rows.jsonl", rows)
    assert measure(tmp_path, tiny_clara_folder, file, "--systems", "clara", "--copy") == 0
    records = list(read_records(run_folder(tmp_path) / "clara.jsonl"))
    assert all(one.answer and any(one.answer in text for text in one.shown) for one in records)
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        answers = clara.answers(
            [one["question"] for one in rows], [one["docs"] for one in rows], copy=True, max_new_tokens=4
        )
    assert [one.answer for one in records] == [one.text for one in answers]


def test_text_systems_read_the_same_passages_in_the_slots_place(measured: Path, tiny_clara_folder: Path):
    folder = run_folder(measured)
    ours, text = (list(read_records(folder / f"{name}.jsonl")) for name in ("clara", "text"))
    assert [one.shown for one in text] == [one.shown for one in ours]
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        tokens, prompt = clara.model.tokens, clara.model.config.prompts.answer
        ids = tokens.text_prompt_ids(prompt, "\n\n".join(text[0].shown), text[0].question)
        closed = tokens.text_prompt_ids(prompt, "", text[0].question)
        assert text[0].answer == clara.model.generate_plain([ids], max_new_tokens=4).texts[0].strip()
    assert text[0].prompt_tokens == len(ids)
    assert next(read_records(folder / "closed.jsonl")).prompt_tokens == len(closed)
    first = next(read_records(folder / "first.jsonl"))
    assert first.read == [0, 1] and first.order == [0, 1, 2, 3, 4]


def test_figures_are_means_over_the_records(measured: Path):
    folder = run_folder(measured)
    summary = json.loads((folder / "summary.json").read_text())
    records = list(read_records(folder / "bm25.jsonl"))
    system = summary["systems"]["bm25"]
    assert system["metrics"]["f1"]["value"] == pytest.approx(sum(one.scores["f1"] for one in records) / 6)
    hits = [one.positives[0] in one.ranking[:3] for one in records]
    assert system["metrics"]["recall@3"]["value"] == pytest.approx(sum(hits) / 6)
    assert sum(one["questions"] for one in system["by_place"].values()) == 6
    assert summary["asked"]["questions"] == summary["questions"] == 6
    assert {"date", "processor", "torch"} <= summary["environment"].keys()
    with (folder / "table.csv").open() as file:
        rows = {(row["system"], row["figure"]): row for row in csv.DictReader(file)}
    assert float(rows["bm25", "f1"]["value"]) == system["metrics"]["f1"]["value"]
    assert "| bm25 |" in (folder / "table.md").read_text()


def test_the_break_even_is_of_documents_that_are_compressed_once(tmp_path: Path, tiny_clara_folder: Path):
    rows = [dict(row, docs=training_rows.documents(5)) for row in training_rows.question_rows(4)]
    file = training_rows.write(tmp_path / "rows.jsonl", rows)
    rest = ("--systems", "clara,text", "--batch_size", "2")
    assert measure(tmp_path, tiny_clara_folder, file, *rest) == 0
    records = list(read_records(run_folder(tmp_path) / "clara.jsonl"))
    even = json.loads((run_folder(tmp_path) / "summary.json").read_text())["break_even"]
    assert even["once"] == pytest.approx(sum(one.seconds["compress"] for one in records))  # of five documents, not 20
    warm = sum(one.seconds[phase] for one in records for phase in ("query", "rank", "generate")) / 4
    assert even["warm"] == pytest.approx(warm)


def test_it_goes_on_where_it_stopped(measured: Path, tiny_clara_folder: Path, monkeypatch, capsys):
    folder = run_folder(measured)
    before = (folder / "text.jsonl").read_text()
    lines = (folder / "clara.jsonl").read_text().splitlines(keepends=True)
    (folder / "clara.jsonl").unlink()
    (folder / "clara.part0.jsonl").write_text("".join(lines[:4]) + lines[4][:50])  # killed in the fifth question
    asked: list[int] = []
    write = pipeline.write

    def counting(model, prompts, *rest, **options):
        asked.append(len(prompts))
        return write(model, prompts, *rest, **options)

    monkeypatch.setattr(pipeline, "write", counting)
    assert measure(measured, tiny_clara_folder, measured / "questions.jsonl", "--json") == 0
    assert sum(asked) == 2
    assert json.loads(capsys.readouterr().out)[0]["systems"].keys() == {
        *("clara", "wrong", "shuffled", "closed", "text", "first", "bm25")
    }
    assert (folder / "text.jsonl").read_text() == before
    again = [json.loads(line) for line in (folder / "clara.jsonl").read_text().splitlines()]
    for old, new in zip(map(json.loads, lines), again, strict=True):
        assert all(new[name] == old[name] for name in ("number", "answer", "order", "scores", "shown"))


def test_another_evaluation_does_not_go_into_the_same_folder(measured: Path, tiny_clara_folder: Path, capsys):
    rest = ("--generation_top_k", "1")
    assert measure(measured, tiny_clara_folder, measured / "questions.jsonl", *rest) == 2
    assert "holds another evaluation: its top_k is 2, this one's 1" in capsys.readouterr().err


def test_a_question_that_fails_is_counted_and_named(tmp_path: Path, tiny_clara_folder: Path, capsys):
    rows = training_rows.question_rows(5)
    rows[2]["question"] = "When did " + "very " * 300 + "late people come?"
    file = training_rows.write(tmp_path / "rows.jsonl", rows)
    rest = ("--systems", "text,closed", "--prompt_tokens", "500", "--generation_top_k", "1")
    assert measure(tmp_path, tiny_clara_folder, file, *rest) == 1
    shown = capsys.readouterr()
    assert f"text: 1 questions FAILED and count in no figure ({file}:3)" in " ".join(shown.out.split())
    assert f"{file}:3 failed: ClaraError: a prompt with" in shown.err
    system = json.loads((run_folder(tmp_path) / "summary.json").read_text())["systems"]["text"]
    assert (system["answered"], system["failed"], system["metrics"]["f1"]["value"] >= 0) == (4, [f"{file}:3"], True)


def test_passages_that_do_not_fit_the_budget_are_left_out(tmp_path: Path, tiny_clara_folder: Path):
    rest = ("--systems", "first,clara", "--prompt_tokens", "135", "--generation_top_k", "5")
    assert measure(tmp_path, tiny_clara_folder, eval_rows.questions(tmp_path, 2), *rest) == 0
    for name in ("first", "clara"):
        for one in read_records(run_folder(tmp_path) / f"{name}.jsonl"):
            assert one.prompt_tokens <= 135 and len(one.read) + one.left_out == 5
            assert one.left_out > 0


def test_stage_1_reads_as_retrieved(tmp_path: Path, pretrained: Path):
    rest = ("--systems", "clara,text", "--setting", "oracle", "--generation_top_k", "2")
    assert measure(tmp_path, pretrained, eval_rows.questions(tmp_path, 3), *rest) == 0
    assert run_folder(tmp_path).name.endswith("_questions_oracle_stage1")
    for one in read_records(run_folder(tmp_path) / "clara.jsonl"):
        assert one.positives[0] in one.read and one.read == sorted(one.read)


def test_a_text_reader_reads_text_in_the_base_models_place(tmp_path: Path, pretrained: Path):
    rest = ("--systems", "text", "--text_reader", str(pretrained))
    assert measure(tmp_path, pretrained, eval_rows.questions(tmp_path, 1), *rest) == 0
    (one,) = read_records(run_folder(tmp_path) / "text.jsonl")
    with Clara.load(pretrained, dtype="float32", device="cpu") as clara:
        prompt = clara.model.config.prompts.answer
        ids = clara.model.tokens.text_prompt_ids(prompt, "\n\n".join(one.shown), one.question)
        read = clara.model.generate_ids([ids], [], max_new_tokens=4).texts[0].strip()
        assert one.answer == read != clara.model.generate_plain([ids], max_new_tokens=4).texts[0].strip()


def test_texts_are_told_again_from_their_latents(tmp_path: Path, tiny_clara_folder: Path):
    rows = [row for row in training_rows.stage1_rows(8) if row["data_type"] == "paraphrase"]
    file = training_rows.write(tmp_path / "rows.jsonl", rows)
    assert measure(tmp_path, tiny_clara_folder, file, "--stage", "paraphrase") == 0
    records = list(read_records(run_folder(tmp_path) / "clara.jsonl"))
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        said = clara.paraphrase([row["docs"][0] for row in rows], max_new_tokens=4)
    assert [one.answer for one in records] == [text.strip() for text in said]
    assert [one.references for one in records] == [row["answers"] for row in rows]
    systems = json.loads((run_folder(tmp_path) / "summary.json").read_text())["systems"]
    assert systems.keys() == {"clara", "text"} and {"rouge1", "rougeL"} <= systems["clara"]["metrics"].keys()


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (("--systems", "clara,magic"), "unknown system 'magic'"),
        (("--systems", "bi:"), "unknown system 'bi:'"),
        (("--generation_top_k", "0"), "top_k must be at least 1, got 0"),
        (("--dataset", "nowhere"), "there is no data set 'nowhere'"),
        (("--text_reader", "clara-tiny"), "compare checkpoints of one base"),
        (
            ("--systems", "llmlingua:nowhere/at-all"),
            "the weights of LLMLingua-2 are not here: 'nowhere/at-all' is no folder",
        ),
        (("--systems", "xrag:nowhere/at-all"), "the weights of xRAG are not here: 'nowhere/at-all' is no folder"),
        (("--stage", "paraphrase", "--systems", "bm25"), "compares clara and text, got 'bm25'"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(tmp_path: Path, tiny_clara_folder: Path, capsys, rest, message):
    assert measure(tmp_path, tiny_clara_folder, eval_rows.questions(tmp_path, 1), *rest) == 2
    shown = capsys.readouterr().err.strip()
    assert message in shown and shown.startswith("clara-eval: ") and "\n" not in shown


def test_a_checkpoint_without_query_reasoner_does_not_rank(tmp_path: Path, pretrained: Path, capsys):
    assert measure(tmp_path, pretrained, eval_rows.questions(tmp_path, 1), "--stage", "stage2") == 2
    assert "no query reasoner to rank with; use --stage stage1 or stage1_2" in capsys.readouterr().err


def test_a_checkpoint_that_can_rank_does_so_whatever_stage_it_was_trained_in(tmp_path: Path, tiny_clara_folder: Path):
    copy = Path(shutil.copytree(tiny_clara_folder, tmp_path / "ranks"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "stage": "instruct"}))
    assert measure(tmp_path, copy, eval_rows.questions(tmp_path, 1), "--systems", "clara") == 0
    assert run_folder(tmp_path).name.endswith("_stage2")

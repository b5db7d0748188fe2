"""Rows: recorded readings, every field, bad lines with their numbers, folders, compressed files."""

import gzip
import json
from pathlib import Path

import pytest
import training_rows

from clara_model.errors import ClaraError
from trainers.data.row import parse_row, unfit
from trainers.data.rows import JoinedRows, JsonlRows, is_hub_name, left_out_of, read_rows, single_questions


def test_recorded_rows_are_read_the_same(goldens: Path):
    for case in json.loads((goldens / "cases/common/dataset_rows.json").read_text())["rows"]:
        if case["row"].get("gold_answer"):
            continue  # refused there, read here
        beyond = any(i >= len(case["result"][0]) for i in case["result"][4]) if "result" in case else False
        if "error" in case or beyond:  # a positive beyond the documents is refused here only
            with pytest.raises(ClaraError):
                parse_row(case["row"])
            continue
        documents, question, answer, kind, positives = case["result"]
        row = parse_row(case["row"])
        assert list(row.documents) == documents and row.kind == kind and list(row.positives) == positives
        assert list(row.answers) == ([answer] if isinstance(answer, str) else answer)
        assert list(row.questions) == ([question] if isinstance(question, str) and question else list(question))


def test_a_gold_answer_is_learned_in_stage_3_and_the_written_one_in_stage_2():
    values = {"question": "q", "docs": ["d"], "answer": "long and written", "gold_answer": "gold"}
    assert parse_row(values).answers == ("long and written",)
    assert parse_row(values, prefer_gold=True).answers == ("gold",)
    assert parse_row(values).references == ("gold",)
    assert parse_row({"question": "q", "docs": ["d"], "gold_answer": "gold"}).answers == ("gold",)


def test_all_accepted_answers_are_references():
    row = parse_row({"question": "q", "docs": ["d"], "answer": "a", "golden_answers": ["a", "b"]}, prefer_gold=True)
    assert row.answers == ("a",) and row.references == ("a", "b")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "JSON object, got list"),
        ({"question": "q", "answer": "a"}, '"docs" must be a list of strings, got NoneType'),
        ({"question": "q", "answer": "a", "docs": []}, "at least one string"),
        ({"question": "q", "answer": "a", "docs": [None]}, "only strings, got NoneType"),
        ({"question": 3, "answer": "a", "docs": ["d"]}, '"question" must be a string'),
        ({"question": "q", "docs": ["d"]}, '"answer" string or an "answers" list'),
        ({"question": ["q", "r"], "answers": ["a"], "docs": ["d"]}, "2 questions need as many answers, got 1"),
        ({"question": "q", "answer": "a", "docs": ["d"], "pos_index": [1]}, "holds 1, but there are 1 documents"),
        ({"question": "q", "answer": "a", "docs": ["d"], "pos_index": ["0"]}, "whole numbers"),
        ({"question": "q", "answer": "a", "docs": ["d"], "data_type": "other"}, "got 'other'"),
    ],
)
def test_a_bad_row_says_what_is_wrong(values: object, message: str):
    with pytest.raises(ClaraError, match=message):
        parse_row(values)


def test_bad_lines_are_listed_with_file_and_number(tmp_path: Path):
    good = json.dumps(training_rows.question_rows(1)[0])
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{good}\n\n{{"question": "q"}}\n{good}\nnot json\n', encoding="utf-8")
    with pytest.raises(ClaraError, match=r"bad\.jsonl has 2 bad of 4 rows: line 3: .*; line 5: not valid JSON"):
        JsonlRows(path)


def test_a_compressed_file_reads_as_the_plain_one(tmp_path: Path, questions_file: Path):
    packed = tmp_path / "q.jsonl.gz"
    packed.write_bytes(gzip.compress(questions_file.read_bytes()))
    plain, unpacked = read_rows([questions_file]), read_rows([packed])
    assert [row.questions for row in plain] == [row.questions for row in unpacked]
    assert plain[2].source == f"{questions_file}:3"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ClaraError, match="could not be read"):
        read_rows([packed])


def test_folders_and_several_files_are_joined(tmp_path: Path):
    rows = training_rows.question_rows(5)
    training_rows.write(tmp_path / "b.jsonl", rows[3:])
    training_rows.write(tmp_path / "a.jsonl", rows[:3])
    read = read_rows([tmp_path])
    assert isinstance(read, JoinedRows) and len(read) == 5
    assert [row.questions[0] for row in read] == [row["question"] for row in rows]
    assert read[-1].questions[0] == rows[-1]["question"] and len(read[1:4]) == 3


@pytest.mark.parametrize("name", ["nothing.jsonl", "no/such/file.jsonl"])
def test_a_missing_file_is_named(name: str):
    with pytest.raises(ClaraError, match=f"{name} does not exist"):
        read_rows([name])


def test_an_empty_file_or_folder_is_refused(tmp_path: Path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ClaraError, match="holds no rows"):
        read_rows([tmp_path / "empty.jsonl"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(ClaraError, match=r"holds no \.jsonl"):
        read_rows([tmp_path / "folder"])


def test_hub_names_are_told_from_paths():
    assert is_hub_name("owner/name") and is_hub_name("owner/name:validation")
    assert not is_hub_name("data/rows.jsonl") and not is_hub_name("rows.jsonl") and not is_hub_name("a/b/c")


def test_a_hub_data_set_that_cannot_be_had_is_one_sentence():
    pytest.importorskip("datasets")
    with pytest.raises(ClaraError, match="neither a file, a folder nor a data set"):
        read_rows(["no-such-owner/no-such-data"])


def test_rows_with_several_questions_are_split():
    rows = [parse_row(row) for row in training_rows.stage1_rows(4)]
    split = single_questions(rows)
    assert [row.questions for row in split] == [("Who came?",), ("When?",)] * 2
    assert split[1].answers == (rows[0].answers[1],)


def test_the_shared_data_is_read_whole(shared_data: Path):
    assert len(read_rows([shared_data / "scp"])) == 1000
    assert len(read_rows([shared_data / "eval" / "nq.jsonl"])) == 300


@pytest.mark.parametrize(("line", "fault"), [("[" * 100_000, "nested too deeply"), ("9" * 5_000, "too many digits")])
def test_json_that_cannot_be_held_is_a_bad_line(tmp_path: Path, line: str, fault: str):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(training_rows.question_rows(1)[0]) + f"\n{line}\n", encoding="utf-8")
    with pytest.raises(ClaraError, match=rf"1 bad of 2 rows: line 2: not valid JSON \(.*{fault}"):
        read_rows([path])


def test_bad_rows_are_left_out_and_named_where_asked(tmp_path: Path):
    good = [json.dumps(row) for row in training_rows.question_rows(3)]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join([good[0], "not json", good[1], "{}", good[2]]) + "\n", encoding="utf-8")
    rows = read_rows([path], skip_bad=True)
    assert [row.source for row in rows] == [f"{path}:1", f"{path}:3", f"{path}:5"]
    assert [place for place, _ in left_out_of(rows)] == [f"{path}, line 2", f"{path}, line 4"]
    path.write_text("not json\n", encoding="utf-8")
    with pytest.raises(ClaraError, match="has 1 bad of 1 rows"):
        read_rows([path], skip_bad=True)


def test_what_the_stage_cannot_take_is_a_bad_row(tmp_path: Path):
    rows = training_rows.stage1_rows(3)
    path = training_rows.write(tmp_path / "rows.jsonl", [rows[0], {**rows[0], "docs": ["d", "e"]}, rows[1]])
    with pytest.raises(ClaraError, match=r"1 bad of 3 rows: line 2: 2 documents, but stage 1 .* generation_top_k is 1"):
        read_rows([path], unfit=lambda row: unfit(row, "pretrain", 1))
    with pytest.raises(ClaraError, match=r"3 bad of 3 rows: line 1: 2 questions, but stage 3 .*; line 3: a paraphrase"):
        read_rows([path], unfit=lambda row: unfit(row, "end_to_end", 5))


def test_rows_of_a_hub_data_set_are_checked_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The data set is real and on disk; only where it comes from is not the hub."""
    datasets = pytest.importorskip("datasets")
    rows = [{"question": q, "docs": ["d"], "answer": "a", "pos_index": [i]} for i, q in ((0, "q"), (7, "r"), (0, "s"))]
    table = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    with pytest.raises(ClaraError, match=r"owner/name has 1 bad of 3 rows: row 1: .*holds 7"):
        read_rows(["owner/name"])
    kept = read_rows(["owner/name"], skip_bad=True)
    assert [row.source for row in kept] == ["owner/name:0", "owner/name:2"]
    assert left_out_of(kept)[0][0] == "owner/name, row 1"

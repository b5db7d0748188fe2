"""What `check` finds: types, lengths, cuts, what comes twice, and every bad line with its number."""

import gzip
import json

import pytest

from clara_model.errors import ClaraError
from trainers.data.check import Checker, StageCheck, check_files, summary_of
from trainers.data.token_counts import PIECE, TokenCounter, pieces, token_counter, tokens_of

WORDS = TokenCounter(count=lambda texts: [len(text.split()) for text in texts], unit="words")
PAIRS = {
    "data_type": "qa",
    "question": ["Who?", "Where?"],
    "answers": ["Ann", "by the sea"],
    "docs": ["Ann is by the sea."],
}
PARAPHRASE = {
    "data_type": "paraphrase",
    "question": [],
    "answers": ["By the sea is Ann."],
    "docs": ["Ann is by the sea."],
}
QUESTION = {"question": "Who is there?", "docs": ["a b c", "d e f g h"], "answers": ["Ann", "A."], "pos_index": [1]}


@pytest.fixture
def check(tmp_path):
    """Check lines: values, or texts as they are."""

    def run(*lines, name="x.jsonl", doc_max_length=256):
        file = tmp_path / name
        file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return Checker(WORDS, doc_max_length).check(file)

    return run


def places(problems):
    return [(int(problem.place.rpartition(":")[2]), problem.what) for problem in problems]


def test_rows_are_counted_by_type_with_their_lengths(check):
    report = check(PAIRS, PARAPHRASE, "", QUESTION)
    assert report.rows == {"pairs": 1, "paraphrase": 1, "question": 1}
    assert report.candidates == {1: 2, 2: 1}
    assert report.with_positives == 1
    assert {name: list(counts) for name, counts in report.lengths.items()} == {
        "document": [5, 5, 3, 5], "question": [1, 1, 3], "answer": [1, 3, 1], "paraphrase": [5],
    }  # fmt: skip
    assert summary_of(report.lengths["document"]) == {"texts": 4, "mean": 4.5, "median": 5, "p95": 5, "longest": 5}
    assert not (report.bad or report.repeated or report.remarks)


def test_documents_that_would_be_cut_are_counted_with_what_is_lost(check):
    report = check(QUESTION, doc_max_length=4)
    assert (report.cut_documents, report.cut_tokens) == (1, 1)


def test_every_bad_line_has_its_number_and_what_is_wrong(check):
    report = check(
        PAIRS,
        "{nope",
        "",
        {**QUESTION, "pos_index": [2]},
        {**QUESTION, "pos_index": [0, 7]},
        {**PAIRS, "answers": ["Ann"]},
        [1],
        {**QUESTION, "docs": "text"},
        {**PAIRS, "data_type": "poem"},
    )
    found = places(report.bad)
    assert [number for number, _ in found] == [2, 4, 5, 6, 7, 8, 9]
    assert found[0][1].startswith("not valid JSON (")
    assert found[1][1] == '"pos_index" holds 2, but there are 2 documents (counted from 0)'
    assert found[3][1] == "2 questions need as many answers, got 1"
    assert report.positives_out_of_range == 2
    assert report.rows.total() == 1


def test_repeated_rows_and_questions_are_found_across_files(tmp_path):
    for name, lines in (
        ("a.jsonl", [PAIRS, QUESTION, PAIRS]),
        ("b.jsonl.gz", [QUESTION, {**QUESTION, "docs": ["new"] * 2}]),
    ):
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    first, second = check_files([str(tmp_path), str(tmp_path / "a.jsonl")], WORDS, 256)
    assert places(first.repeated) == [(3, f"the same row as {tmp_path / 'a.jsonl'}:1")]
    assert places(second.repeated) == [(1, f"the same row as {tmp_path / 'a.jsonl'}:2")]
    assert places(second.remarks) == [
        (2, "1 document twice in the row"),
        (2, f"the same question as {tmp_path / 'a.jsonl'}:2, other row"),
    ]


def test_blank_texts_and_repetitions_in_a_row_are_remarked(check):
    report = check({**PAIRS, "question": ["Who?", "Who?"], "answers": ["", " "]}, {**QUESTION, "docs": ["", "d"]})
    assert places(report.remarks) == [
        (1, "1 question twice in the row"),
        (1, "2 blank answers"),
        (2, "1 blank document"),
    ]


def test_an_empty_file_is_bad(check):
    assert check("").bad[0].what == "the file holds no rows"


def test_more_rows_than_are_measured_at_once(check):
    report = check(*({**QUESTION, "question": f"Who is {i}?"} for i in range(600)))
    assert len(report.lengths["document"]) == 1200


def test_a_file_that_is_not_there_or_not_gzip_is_one_error(tmp_path):
    with pytest.raises(ClaraError, match="does not exist"):
        check_files([str(tmp_path / "absent.jsonl")], WORDS, 256)
    (tmp_path / "x.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(ClaraError, match=r"x\.jsonl\.gz could not be read"):
        check_files([str(tmp_path)], WORDS, 256)


def test_the_shared_data_is_good(shared_data):
    reports = check_files([str(shared_data / "scp"), str(shared_data / "eval")], WORDS, 256)
    assert not any(report.bad or report.repeated for report in reports)
    assert reports[0].rows == {"pairs": 1000}
    assert (
        sum(report.with_positives for report in reports) == sum(report.rows["question"] for report in reports) == 1282
    )


def test_tokens_are_those_of_a_checkpoint_s_base_model(tiny_clara_folder, base_folder, model):
    of_checkpoint, of_base = token_counter(str(tiny_clara_folder)), token_counter(str(base_folder))
    texts = ["Ada Fenwick catalogued the tide clock.", "", "x"]
    assert of_checkpoint.count(texts) == of_base.count(texts) == [model.tokens.count(text) for text in texts]
    assert (of_checkpoint.doc_max_length, of_base.doc_max_length) == (48, 256)
    assert of_base.count([]) == []


def test_a_tokenizer_that_cannot_be_loaded_is_said_in_a_sentence(tmp_path):
    with pytest.raises(ClaraError, match="no tokenizer can be loaded from"):
        token_counter(str(tmp_path))


def test_words_are_counted_where_there_is_no_model(monkeypatch, tmp_path):
    monkeypatch.setattr("trainers.data.token_counts._BUNDLED", tmp_path)
    counter = token_counter()
    assert (counter.unit, counter.count(["one two"])) == ("words", [2])


def test_rows_are_held_against_a_stage(tmp_path, tiny_clara_folder):
    file = tmp_path / "rows.jsonl"
    long = {**QUESTION, "question": "who " * 900}
    lines = [QUESTION, {**PAIRS, "docs": ["a", "b"]}, PARAPHRASE, long]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokens = tokens_of(str(tiny_clara_folder))
    third = Checker(WORDS, 256, StageCheck("stage2", tokens, max_len=200)).check(file)
    assert [place for place, _ in places(third.bad)] == [2, 3]
    assert "2 questions, but stage 3 wants one" in third.bad[0].what
    assert third.shortened == 1 and third.rows == {"question": 2}
    first = Checker(WORDS, 256, StageCheck("pretrain")).check(file)
    assert [place for place, _ in places(first.bad)] == [1, 2, 4], "more than one document"
    with pytest.raises(ClaraError, match=r"stage must be one of pretrain, .*, got 'four'"):
        StageCheck("four")


def test_lone_surrogates_are_counted_and_remarked(tmp_path, tiny_clara_folder):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**QUESTION, "docs": ["a \ud800 b", "c d"]}) + "\n")
    report = Checker(token_counter(str(tiny_clara_folder)), 256).check(file)
    assert not report.bad and "half a character" in report.remarks[0].what
    assert len(report.lengths["document"]) == 2


def test_a_long_text_is_counted_in_pieces(tiny_clara_folder):
    text = "Ada came to Osmere in 1840. " * 4_000
    parts = list(pieces(text))
    assert "".join(parts) == text and max(map(len, parts)) <= PIECE and all(part[0] == " " for part in parts[1:])
    assert "".join(pieces("x" * 40_000)) == "x" * 40_000
    counter = token_counter(str(tiny_clara_folder))
    whole = sum(counter.count(["Ada came to Osmere in 1840. "] * 4_000))
    assert counter.count([text, "one"])[0] == pytest.approx(whole, rel=0.01)

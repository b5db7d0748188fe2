"""Where questions come from: names, settings, passages, a user's own; what is wrong with them is said by line."""

import gzip
from pathlib import Path

import eval_rows
import pytest
import training_rows

from clara_model.errors import ClaraError
from trainers.evaluation.measuring import Meter
from trainers.evaluation.questions import Pool, find_dataset, first_answers, has_documents, read_candidates, read_own
from trainers.evaluation.rankers import AsRetrieved


def whole(text: str) -> list[tuple[int, int]]:
    return [(0, len(text))]


def halves(text: str) -> list[tuple[int, int]]:
    return [(0, len(text) // 2), (len(text) // 2, len(text))]


def test_names_files_and_the_published_folders(tmp_path: Path):
    plain = eval_rows.questions(tmp_path).rename(tmp_path / "nq.jsonl")
    assert find_dataset(str(plain), "normal") == [plain]
    assert find_dataset("nq", "oracle", tmp_path) == [plain]
    (tmp_path / "musique").mkdir()
    oracle = tmp_path / "musique" / "eval_processed_with_pos.jsonl"
    oracle.write_text(plain.read_text())
    packed = tmp_path / "musique" / "eval_processed_no_pos.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert find_dataset("musique", "oracle", tmp_path) == [oracle]
    assert find_dataset("musique", "normal", tmp_path) == [packed]
    assert len(read_candidates([packed], "normal", whole)) == 6
    with pytest.raises(ClaraError, match="no data set 'triviaqa'"):
        find_dataset("triviaqa", "normal", tmp_path)


def test_long_documents_become_passages_of_the_same_document(tmp_path: Path):
    (question,) = read_candidates([eval_rows.questions(tmp_path)], "normal", halves, limit=1)
    pool = question.pool
    assert len(pool.passages) == 10 and list(pool.documents) == [n // 2 for n in range(10)]
    assert "".join(pool.passages[:2]) == training_rows.question_rows(1)[0]["docs"][0]
    assert pool.ranking([3, 9, 2, 0]) == [1, 4, 0]


def test_questions_about_the_same_gold_document_are_one_cluster(tmp_path: Path):
    file = training_rows.write(tmp_path / "rows.jsonl", [row for row in training_rows.question_rows(2) for _ in "ab"])
    clusters = [question.cluster for question in read_candidates([file], "normal", whole)]
    assert clusters[0] == clusters[1] != clusters[2] == clusters[3]


def test_oracle_wants_gold_documents_and_puts_them_among_the_first(tmp_path: Path):
    rows = training_rows.question_rows(1, candidates=8)
    rows[0]["pos_index"] = [6, 1]
    (question,) = read_candidates([training_rows.write(tmp_path / "o.jsonl", rows)], "oracle", whole)
    orders = [AsRetrieved(3, gold=gold).rank([question], Meter())[0].order for gold in (True, False)]
    assert orders == [[0, 1, 6, 2, 3, 4, 5, 7], list(range(8))]
    with pytest.raises(ClaraError, match=r"questions\.jsonl:1 has no \"pos_index\", which --setting oracle needs"):
        read_candidates([eval_rows.questions(tmp_path, pos_index=[])], "oracle", whole)


def test_own_questions_have_no_documents(tmp_path: Path):
    file = training_rows.write(tmp_path / "own.jsonl", [{"question": "Who?", "answers": ["a", "b"]}] * 3)
    pool = Pool(["text"], [0], shared=True)
    assert not has_documents([file])
    questions = read_own([file], pool, limit=2)
    assert len(questions) == 2 and questions[0].pool is pool and questions[0].references == ("a", "b")
    assert first_answers(questions)[0].references == ("a",)
    training_rows.write(file, [{"question": "Who?", "answer": "a"}, {"question": "Where?"}])
    with pytest.raises(ClaraError, match=r'own\.jsonl:2: an "answer" string'):
        read_own([file], pool)
    training_rows.write(file, [{"question": " ", "answer": "a"}])
    with pytest.raises(ClaraError, match=r"own\.jsonl:1 has a blank question"):
        read_own([file], pool)

"""Official files to rows: golds are there and marked, negatives are no golds, and the same seed gives the same rows."""

import json
from collections import Counter

import pytest
from official_files import NQ, PASSAGES, hotpotqa, musique, write, write_json, write_jsonl, write_tsv

from clara_model.errors import ClaraError
from trainers.data.convert import ConvertConfig, Converter, holds_answer, read_passages, read_questions
from trainers.data.rows import parse_row


@pytest.fixture
def convert():
    """Rows of files, and the converter."""

    def run(form, *files, corpus=(), **settings):
        converter = Converter(ConvertConfig(form=form, **settings), files, corpus)
        return list(converter.rows()), converter

    return run


@pytest.fixture
def hotpot_file(tmp_path):
    return write_json(tmp_path / "hotpot_train_v1.1.json", [hotpotqa(i) for i in range(8)])


@pytest.mark.parametrize("form", ["hotpotqa", "2wiki"])
def test_hotpotqa_and_2wiki_become_training_rows(convert, hotpot_file, form):
    rows, converter = convert(form, hotpot_file, candidates=12)
    assert len(rows) == 8
    for i, row in enumerate(rows):
        assert (row["id"], row["gold_answer"]) == (f"id{i}", str(1900 + i))
        assert len(row["docs"]) == len(set(row["docs"])) == 12
        assert {row["docs"][j] for j in row["pos_index"]} == {
            f"Town {i}\nTown {i} lies by a lake. Its mayor is Mayor {i}.",
            f"Mayor {i}\nMayor {i} was born in year {1900 + i}. Little else is known.",
        }
        assert sum(doc.startswith(f"Hill {i}-") for doc in row["docs"]) == 3
        parsed = parse_row(row)
        assert parsed.positives == tuple(row["pos_index"])
        assert parsed.references == (str(1900 + i),)
    assert converter.counts["negatives by search"] + converter.counts["negatives by chance"] == 8 * 7


def test_positions_of_golds_are_spread_and_hang_on_the_seed_and_the_row_alone(convert, hotpot_file, tmp_path):
    rows, _ = convert("hotpotqa", hotpot_file, candidates=12)
    assert len({index for row in rows for index in row["pos_index"]}) > 6
    assert convert("hotpotqa", hotpot_file, candidates=12)[0] == rows
    assert convert("hotpotqa", hotpot_file, candidates=12, seed=1)[0] != rows
    own = write_json(tmp_path / "one.json", [hotpotqa(5)])
    (alone,), _ = convert("hotpotqa", own, negatives="none")
    among, _ = convert("hotpotqa", hotpot_file, negatives="none")
    assert among[5] == alone


def test_musique_gives_all_accepted_answers_for_evaluation_and_leaves_out_the_unanswerable(convert, tmp_path):
    lines = [musique(0), musique(1, answerable=False), musique(2)]
    file = write_jsonl(tmp_path / "musique_full_v1.0_dev.jsonl.gz", lines)
    rows, converter = convert("musique", file, split="eval", negatives="none")
    assert [row["id"] for row in rows] == ["2hop__0", "2hop__2"]
    assert rows[0]["answers"] == ["Port 0", "the harbour 0"]
    assert parse_row(rows[0]).references == ("Port 0", "the harbour 0")
    assert "gold_answer" not in rows[0]
    assert [len(row["pos_index"]) for row in rows] == [2, 2]
    assert converter.left_out == {"marked as not answerable": 1}


def test_negatives_never_hold_the_answer_nor_repeat_a_gold(convert, tmp_path):
    item = hotpotqa(1)
    gold = "Town 1 lies by a lake. Its mayor is Mayor 1."
    corpus = write_jsonl(
        tmp_path / "corpus.jsonl",
        [
            {"title": "TOWN 1", "text": gold.upper()},  # the gold again, in capitals
            {"title": "Almanac", "text": "When was the mayor of Town 1 born? In 1901, they say."},
            {"title": "Almanac", "contents": "When was the mayor of Town 1 born? In 19015, they say."},
        ],
    )
    (row,), _ = convert("hotpotqa", write_json(tmp_path / "x.json", [item]), corpus=[corpus])
    assert len(row["docs"]) == 6
    assert not any("In 1901," in doc or doc.isupper() for doc in row["docs"])
    assert any("19015" in doc for doc in row["docs"])


def test_more_paragraphs_than_candidates_keep_all_golds(convert, tmp_path):
    file = write_json(tmp_path / "x.json", [hotpotqa(0, others=9), hotpotqa(1, others=9)])
    rows, converter = convert("hotpotqa", file, candidates=4)
    assert [(len(row["docs"]), len(row["pos_index"])) for row in rows] == [(4, 2), (4, 2)]
    assert not converter.counts["negatives by search"]
    _, converter = convert("hotpotqa", file, candidates=1)
    assert converter.left_out == {"more gold paragraphs than candidates": 2}


def test_a_test_file_and_missing_golds_are_left_out_with_their_reason(convert, tmp_path):
    no_answer = {key: value for key, value in hotpotqa(0).items() if key not in ("answer", "supporting_facts")}
    fullwiki = {**hotpotqa(1), "context": hotpotqa(1)["context"][:-1]}
    file = write_json(tmp_path / "x.json", [no_answer, fullwiki])
    rows, converter = convert("hotpotqa", file)
    assert rows == []
    assert converter.left_out == {
        "no answer in the file (a test file?)": 1,
        "a gold paragraph is not among those given": 1,
    }


def test_the_normal_setting_takes_what_the_search_finds_in_its_order(convert, hotpot_file):
    rows, converter = convert("hotpotqa", hotpot_file, split="eval", setting="normal", candidates=3)
    assert rows[4]["docs"][0].startswith("Town 4") or rows[4]["docs"][0].startswith("Mayor 4")
    assert all(len(row["docs"]) == 3 for row in rows)
    assert converter.counts["rows written"] == 8


def test_the_normal_setting_without_negatives_keeps_the_file_s_own_retrieval(convert, tmp_path):
    fullwiki = {**hotpotqa(1), "context": hotpotqa(1)["context"][:-1]}
    file = write_json(tmp_path / "hotpot_dev_fullwiki_v1.json", [fullwiki])
    (row,), converter = convert("hotpotqa", file, split="eval", setting="normal", negatives="none")
    assert (len(row["docs"]), len(row["pos_index"])) == (4, 1)
    assert converter.counts["rows with fewer candidates"] == 1


@pytest.mark.parametrize("header", [True, False])
def test_nq_takes_the_first_passage_found_with_the_answer_as_gold(convert, tmp_path, header):
    questions = write_jsonl(tmp_path / "NQ-open.dev.jsonl", NQ)
    corpus = write_tsv(tmp_path / "psgs_w100.tsv.gz", header=header)
    rows, converter = convert("nq", questions, corpus=[corpus], candidates=3, split="eval")
    assert [row["question"] for row in rows] == [NQ[0]["question"], NQ[1]["question"]]
    assert rows[0]["answers"] == ["Mei Lin", "Lin Mei"]
    gold = [rows[0]["docs"][i] for i in rows[0]["pos_index"]]
    assert gold == ["Osmere\nThe salt mill at Osmere was built by Mei Lin in 1790."]
    assert not any("Song" in doc for doc in rows[0]["docs"])  # holds the answer too: not a negative
    assert rows[0]["id"] == "NQ-open.dev.jsonl:1"
    assert list(converter.left_out) == ["no passage with the answer among the first 1 found"]


def test_nq_in_the_normal_setting_marks_every_passage_found_with_the_answer(convert, tmp_path):
    questions = write_jsonl(tmp_path / "nq.jsonl", NQ)
    rows, converter = convert("nq", questions, corpus=[write_tsv(tmp_path / "p.tsv")], setting="normal", candidates=3)
    assert len(rows) == 3
    assert len(rows[0]["pos_index"]) == 2
    assert rows[2]["pos_index"] == []
    assert rows[2]["gold_answer"] == "Nobody Atall"
    assert converter.counts["rows without a gold document"] == 1


def test_passages_lose_dpr_s_quotes_and_get_their_title(tmp_path):
    passages = list(read_passages(write_tsv(tmp_path / "p.tsv")))
    assert passages[2] == 'Song\nA "mill" song by Mei Lin is sung at Osmere.'
    assert len(passages) == len(PASSAGES)


def test_embedding_negatives_come_from_a_checkpoint(convert, hotpot_file, tiny_clara_folder):
    settings = {"negatives": "embedding", "embedding_model": f"clara:{tiny_clara_folder}", "candidates": 9}
    rows, converter = convert("hotpotqa", hotpot_file, **settings)
    assert [len(row["docs"]) for row in rows] == [9] * 8
    assert converter.counts["negatives by search"] == 8 * 4


@pytest.mark.parametrize(
    ("text", "answers", "holds"),
    [
        ("Built by Mei Lin.", ["mei lin"], True),
        ("Built by Meilin.", ["Mei Lin"], False),
        ("In 19015.", ["1901"], False),
        ("Cold-Harbour!", ["cold harbour"], True),
        ("no way", ["no"], False),
        ("anything", ["", "!"], False),
        ("Zürich, CH", ["zürich"], True),
    ],
)
def test_an_answer_is_held_word_for_word(text, answers, holds):
    assert holds_answer(text, answers) is holds


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("hotpotqa", '{"a": 1}', r"x\.json must be one JSON list, got dict"),
        ("hotpotqa", "[1]", r"x\.json, item 1: must be a JSON object, got int"),
        ("hotpotqa", "nope", r"x\.json must be one JSON list, but is not valid JSON"),
        ("hotpotqa", '[{"question": "q"}]', r"x\.json, item 1 does not have the official form of hotpotqa \('context'"),
        ("musique", '{"question": "q"}\n\n{', r"x\.json:1 does not have the official form of musique \('paragraphs'"),
        ("nq", '{"question": "q", "answer": ["a"]}\n{', r"x\.json:2: not valid JSON"),
        ("nq", '{"question": "q", "answer": "a"}', r'x\.json:1: "answer" must be a list of strings'),
        ("nq", '{"question": 3, "answer": []}', r"official form of nq \(a string is needed, got int\)"),
    ],
)
def test_a_file_of_another_form_is_named_with_the_item(tmp_path, form, content, message):
    file = write(tmp_path / "x.json", content)
    with pytest.raises(ClaraError, match=message):
        list(read_questions(file, form))


def test_a_corpus_of_another_form_is_named_with_the_line(tmp_path):
    with pytest.raises(ClaraError, match=r"p\.tsv:2 must be 'id, text, title' with tabs between, got 1 fields"):
        list(read_passages(write(tmp_path / "p.tsv", "1\ta\tb\nwords\n")))
    with pytest.raises(ClaraError, match=r'p\.jsonl:1 must have a string "text" or "contents"'):
        list(read_passages(write(tmp_path / "p.jsonl", "{}\n")))
    with pytest.raises(ClaraError, match="could not be read"):
        list(read_passages(tmp_path / "absent.tsv"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "squad"}, "form must be one of hotpotqa, 2wiki, musique, nq, got 'squad'"),
        ({"form": "nq", "negatives": "none"}, "NQ-open names no passages"),
        ({"form": "2wiki", "candidates": 0}, "candidates must be at least 1, got 0"),
        ({"form": "2wiki", "embedding_model": "x"}, "no effect with negatives bm25; leave one of them out"),
        ({"form": "2wiki", "split": "dev"}, "split must be one of train, eval, got 'dev'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ClaraError, match=message):
        ConvertConfig(**settings)


def test_nq_without_a_corpus_says_what_it_needs(convert, tmp_path):
    with pytest.raises(ClaraError, match="give a --corpus"):
        convert("nq", write_jsonl(tmp_path / "nq.jsonl", NQ))


# -- real questions, put back into the official forms ------------------------------------------------------------


def official(row):
    """A row of this project's form as HotpotQA has it: sentences of a paragraph as one."""
    context = []
    for doc in dict.fromkeys(row["docs"]):
        title, _, text = doc.partition("\n")
        context.append([title, [text]])
    golds = [row["docs"][i].partition("\n")[0] for i in row["pos_index"]]
    return {"_id": row["id"], "question": row["question"], "answer": row["answer"], "context": context,
            "supporting_facts": [[title, 0] for title in golds]}  # fmt: skip


@pytest.mark.parametrize("name", ["hotpotqa", "2wiki"])
def test_real_questions_come_through_whole(convert, shared_data, tmp_path, name):
    rows = [json.loads(line) for line in (shared_data / "eval" / f"{name}.jsonl").open(encoding="utf-8")]
    file = write_json(tmp_path / "official.json", [official(row) for row in rows])
    converted, converter = convert(name, file, split="eval")
    assert len(converted) == len(rows)
    for row, new in zip(rows, converted, strict=True):
        golds = {doc for doc in row["docs"] if doc.partition("\n")[0] in titles(row)}
        assert {new["docs"][i] for i in new["pos_index"]} == {doc.strip() for doc in golds}
        assert {doc.strip() for doc in row["docs"]} <= set(new["docs"])
        assert Counter(len(row["docs"]) for row in converted) == {20: len(rows)}
        assert new["answers"] == row["golden_answers"]
    drawn = converter.counts["negatives by chance"]  # where fewer than 19 others share a word with the question
    assert drawn < converter.counts["negatives by search"] / 50


def titles(row):
    return {row["docs"][i].partition("\n")[0] for i in row["pos_index"]}


def test_real_natural_questions_find_a_passage_with_the_answer(convert, shared_data, tmp_path):
    rows = [json.loads(line) for line in (shared_data / "eval" / "nq.jsonl").open(encoding="utf-8")][:100]
    questions = [{"question": row["question"], "answer": row["golden_answers"]} for row in rows]
    docs = dict.fromkeys(doc for row in rows for doc in row["docs"])
    passages = [{"title": doc.partition("\n")[0], "text": doc.partition("\n")[2]} for doc in docs]
    file, corpus = write_jsonl(tmp_path / "nq.jsonl", questions), write_jsonl(tmp_path / "corpus.jsonl", passages)
    converted, _ = convert("nq", file, corpus=[corpus])
    assert len(converted) > 80
    for row in converted:
        assert len(row["docs"]) == 20
        assert [holds_answer(doc, answers_of(questions, row)) for doc in row["docs"]].count(True) == 1


def answers_of(questions, row):
    return next(question["answer"] for question in questions if question["question"] == row["question"])

"""Files to documents to passages: what is read, where it is cut, and one clear sentence for what cannot be read."""

import gzip
import io
import json
import logging
import os
import re
import tracemalloc

import pytest

from clara_model.documents.passages import (
    Document,
    Passage,
    read_documents,
    read_source,
    sources_of,
    split_documents,
    split_text,
)
from clara_model.errors import ClaraError


def words(text):
    """A token count that a reader can check by eye: words, a long one counting once per ten characters."""
    return sum(-(-len(word) // 10) for word in text.split())


def squeeze(text):
    return re.sub(r"\s+", "", text)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("Anna lives in Bern.")
    (tmp_path / "b" / "c.md").write_text("# Title\n\nCarl lives in Cork.")
    (tmp_path / "b" / "d.jsonl").write_text(
        '{"text": "one"}\n\n{"contents": "two", "id": 7}\n{"docs": ["three", "four"]}\n{"docs": "five"}\n'
    )
    (tmp_path / "e.csv").write_text("left,out")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "f.txt").write_text("hidden")
    return tmp_path


def test_a_folder_is_read_recursively_in_order_without_hidden_and_foreign_files(folder):
    documents = read_documents([str(folder)])
    assert [document.text for document in documents] == [
        "Anna lives in Bern.",
        "# Title\n\nCarl lives in Cork.",
        *("one", "two", "three", "four", "five"),
    ]
    assert [document.file for document in documents[:3]] == [
        str(folder / name) for name in ("a.txt", "b/c.md", "b/d.jsonl")
    ]
    assert [document.line for document in documents] == [None, None, 1, 3, 4, 4, 5]


def test_a_file_named_twice_is_read_once(folder):
    assert len(read_documents([str(folder / "a.txt"), str(folder), str(folder / "b" / ".." / "a.txt")])) == 7


def test_standard_input_is_text_or_json_lines(monkeypatch):
    def piped(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return read_documents(["-"])

    assert piped(b"plain {text}\nhere") == [Document(text="plain {text}\nhere", file="standard input")]
    documents = piped(b'\n{"text": "a"}\n{"text": "b"}')
    assert [(document.text, document.line) for document in documents] == [("a", 2), ("b", 3)]


def test_byte_order_mark_and_windows_line_ends_are_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree")
    assert read_documents([str(tmp_path / "a.txt")])[0].text == "one\ntwo\nthree"


def test_lines_end_in_newlines_carriage_returns_or_both_and_are_counted(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r{"text": "b"}\r{"text": "c"}\n{"text": "d"}')
    found = read_documents([str(tmp_path / "a.jsonl")])
    assert [(one.text, one.line) for one in found] == [("a", 1), ("b", 3), ("c", 4), ("d", 5)]
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a"}\r\n\r{"text": "\xff"}')
    assert [one.text for one in read_documents([str(tmp_path / "b.jsonl")])] == ["a"]
    assert "b.jsonl:3: not UTF-8 text (byte 0xff); convert the file to UTF-8 first." in caplog.text


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_file_of_rows_is_never_whole_in_memory(tmp_path, name):
    row = json.dumps({"text": "x" * 100_000}) + "\n"
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt") as file:
        for _ in range(300):
            file.write(row)
    tracemalloc.start()
    assert sum(len(one.text) for one in read_source(tmp_path / name)) == 30_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_lone_surrogates_are_replaced_and_line_separators_do_not_end_a_json_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x\\ud800y\u2028z"}', encoding="utf-8")
    assert read_documents([str(tmp_path / "a.jsonl")])[0].text == "x\ufffdy\u2028z"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", "a.txt is empty"),
        ("a.md", b" \n\t ", "a.md is empty"),
        ("a.jsonl", b'{"text": "  "}\n', "a.jsonl is empty"),
        ("a.txt", b"ok\nbad \xff here", r"a.txt:2: not UTF-8 text \(byte 0xff\)"),
        ("a.jsonl", b'\n{"text": "cut', "a.jsonl:2: not valid JSON: Unterminated string"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "a.jsonl:1: not valid JSON: Exceeds the limit"),
        ("a.jsonl", b'["x"]', 'a.jsonl:1: must be a JSON object with one of the keys "text"'),
        ("a.jsonl", b'{"title": "x"}', 'a.jsonl:1: must be a JSON object with one of the keys "text"'),
        ("a.jsonl", b'{"text": 3}', 'a.jsonl:1: "text" must be a string or a list of strings'),
        ("a.jsonl", b'{"docs": ["x", null]}', 'a.jsonl:1: "docs" must be a string or a list of strings'),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not valid JSON: nested too deeply"),
        ("a.odt", b"PK", r"a.odt is not a \.txt, \.md, .* or \.parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_sentence(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ClaraError, match=message) as caught:
        read_documents([str(tmp_path / name)])
    assert "\n" not in str(caught.value)


def test_a_name_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt does not exist\.$"):
        read_documents([str(tmp_path / "nowhere.txt")])


def test_a_folder_with_nothing_to_read_is_an_error_and_an_empty_file_in_a_folder_is_left_out(tmp_path, caplog):
    with pytest.raises(ClaraError, match=r"holds no \.txt, \.md, .* or \.parquet file"):
        read_documents([str(tmp_path)])
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ClaraError, match="every file is empty"):
        read_documents([str(tmp_path)])
    (tmp_path / "b.txt").write_text("Something.")
    with caplog.at_level(logging.WARNING):
        assert [document.text for document in read_documents([str(tmp_path)])] == ["Something."]
    assert "a.txt is empty and left out" in caplog.text
    with pytest.raises(ClaraError, match="No documents were named"):
        read_documents([])


def test_a_text_that_fits_is_one_passage_unchanged():
    assert list(split_text("  One two.\n\nThree  four. ", words, 4)) == ["One two.\n\nThree  four."]


def test_passages_end_at_sentence_ends_and_are_as_long_as_fits():
    text = "One two three. Four five? Six seven eight! Nine ten."
    assert list(split_text(text, words, 5)) == ["One two three. Four five?", "Six seven eight! Nine ten."]
    assert list(split_text(text, words, 4)) == ["One two three.", "Four five?", "Six seven eight!", "Nine ten."]


def test_a_dot_inside_a_sentence_does_not_end_it():
    text = "It cost 3.5 crowns (approx. two) said Dr. Who to J. R. Smith. He paid."
    assert list(split_text(text, words, 13)) == [text[: text.index(" He")], "He paid."]


def test_closing_quotes_stay_with_their_sentence():
    assert list(split_text('He said "no." She said (yes.) Then left.', words, 3)) == [
        'He said "no."',
        "She said (yes.)",
        "Then left.",
    ]


def test_text_without_spaces_ends_at_its_own_full_stops():
    assert list(split_text("一二三四五。六七八九十。一二三。", len, 12)) == ["一二三四五。六七八九十。", "一二三。"]


SENTENCES = {
    "Hindi": ("राम घर गया।", " ", "सीता ने खाना बनाया।"),
    "Urdu": ("وہ گھر گیا۔", " ", "اس نے کھانا کھایا۔"),
    "Arabic": ("أين ولد الرجل؟", " ", "هل عاد إلى البيت؟"),
    "Khmer": ("គាត់បានទៅផ្ទះ។", " ", "នាងបានចម្អិនអាហារ។"),
    "Burmese": ("သူအိမ်သို့ပြန်သွားသည်။", "", "သူမထမင်းချက်သည်။"),
    "Ethiopic": ("ሰውየው ወደ ቤት ሄደ።", " ", "እሷ ምግብ አበሰለች።"),
    "Armenian": ("Նա գնաց տուն։", " ", "Նա ուտելիք պատրաստեց։"),
    "Tibetan": ("ང་ཁྱིམ་ལ་འགྲོ་གི་ཡིན།", " ", "ཁོང་གིས་ཁ་ལག་བཟོས།"),
    "half-width": ("ｶﾚﾊｲｴﾆｶｴｯﾀ｡", "", "｢ｶﾉｼﾞｮﾊﾘｮｳﾘｼﾀ｡｣"),
    "Chinese, quoted": ("他说：“我回家了。”", "", "她做了饭。"),
}


def test_sentences_of_every_script_end_where_they_end():
    for script, (one, space, two) in SENTENCES.items():
        longest = max(len(one), len(two))
        assert list(split_text(space.join([one, two, one]), len, longest + 2)) == [one, two, one], script


WHOLE = {
    "an accent": "e\u0301",
    "Thai": "\u0e01\u0e33",
    "Devanagari": "\u0915\u093e\u0902",
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "a flag": "\U0001f1e9\U0001f1ea",
    "a tone of skin": "\U0001f44d\U0001f3fd",
    "Korean letters": "\u1112\u1161\u11ab",
}


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE)
def test_a_word_is_never_cut_inside_a_character_as_people_see_it(whole):
    for limit in (3 * len(whole), 3 * len(whole) + 1):
        assert list(split_text(whole * 10, len, limit)) == [whole * 3] * 3 + [whole]
        long = list(split_text("x" + whole * 200, len, limit))  # reaches beyond what is looked at
        assert all(part.removeprefix("x").replace(whole, "") == "" for part in long)
    if len(whole) > 1:
        assert list(split_text(whole, len, 1)) == list(whole)  # nothing smaller fits


def test_a_paragraph_end_past_the_half_is_preferred_to_a_later_sentence_end():
    text = "One two three four five.\n\nSix seven. Eight nine ten. Eleven twelve."
    assert list(split_text(text, words, 8)) == ["One two three four five.", "Six seven. Eight nine ten. Eleven twelve."]


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_a_heading_is_not_a_passage_of_its_own(gap):
    text = f"# Head{gap}One two three. Four five six. Seven eight."
    assert list(split_text(text, words, 8)) == [f"# Head{gap}One two three. Four five six.", "Seven eight."]
    text = f"Head{gap}" + "one two three four five six seven eight nine ten."
    assert list(split_text(text, words, 8)) == [f"Head{gap}one two three four five six seven", "eight nine ten."]


def test_a_long_sentence_is_cut_at_lines_then_words_then_inside_a_word():
    assert list(split_text("- one two\n- three four\n- five six", words, 7)) == [
        "- one two\n- three four",
        "- five six",
    ]
    assert list(split_text("one two three four five", words, 2)) == ["one two", "three four", "five"]
    assert list(split_text("x" * 45, lambda text: -(-len(text) // 5), 4)) == ["x" * 20, "x" * 20, "x" * 5]


def test_a_single_character_beyond_the_budget_still_goes_on():
    assert list(split_text("ab", lambda text: 5 * len(text), 3)) == ["a", "b"]


@pytest.mark.parametrize("budget", [1, 2, 7, 40, 10_000])
def test_every_passage_fits_and_nothing_but_white_space_is_lost(budget):
    text = "\n\n".join(
        f"# Part {n}\nA first sentence, number {n}. And then a longer one follows; it ends here! "
        + "y" * (n * 7)
        + " z."
        for n in range(40)
    )
    passages = list(split_text(text, words, budget))
    assert all(words(passage) <= budget for passage in passages)
    assert all(passage and passage == passage.strip() and passage in text for passage in passages)
    assert squeeze("".join(passages)) == squeeze(text)


def test_the_cost_of_splitting_grows_with_the_text_not_its_square():
    counted = 0

    def count(text):
        nonlocal counted
        counted += len(text)
        return words(text)

    sentence = "Twelve words stand in this one sentence, and it is repeated often. "
    cost = []
    for repeats in (200, 800):
        counted = 0
        assert len(list(split_text(sentence * repeats, count, 50))) == repeats / 4
        cost.append(counted / repeats)
    assert cost[1] < 1.1 * cost[0]


def test_blank_text_has_no_passages_and_a_budget_below_one_is_refused():
    assert list(split_text(" \n ", words, 5)) == []
    with pytest.raises(ValueError, match="at least 1, got 0"):
        list(split_text("x", words, 0))


def test_passages_are_numbered_within_their_file_and_cited():
    documents = [
        Document(text="One two. Three four.", file="a.txt"),
        Document(text="five", file="b.jsonl", line=1),
        Document(text="six seven. Eight nine.", file="b.jsonl", line=4),
    ]
    passages = split_documents(documents, words, 3)
    assert passages[0] == Passage(text="One two.", file="a.txt", number=1)
    assert [passage.citation for passage in passages] == [
        "a.txt, passage 1",
        "a.txt, passage 2",
        "b.jsonl:1, passage 1",
        "b.jsonl:4, passage 2",
        "b.jsonl:4, passage 3",
    ]


def test_the_published_row_shape_is_read(tmp_path):
    row = {"data_type": "qa", "question": ["Q?"], "answers": ["A"], "docs": ["Title\nText one.", "Text two."]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert [document.text for document in read_documents([str(tmp_path / "rows.jsonl")])] == row["docs"]


# -- hostile names and files ------------------------------------------------------------------------------------


def test_each_file_that_is_not_utf8_is_left_out_and_named(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("Good text.")
    for name in ("b.txt", "c.md"):
        (tmp_path / name).write_bytes("caf\xe9".encode("latin-1"))
    assert [document.text for document in read_documents([str(tmp_path)])] == ["Good text."]
    for name in ("b.txt", "c.md"):
        assert f"left out: {tmp_path}/{name}:1: not UTF-8 text (byte 0xe9); convert the file" in caplog.text
    (tmp_path / "a.txt").unlink()
    with pytest.raises(ClaraError, match="no file can be read"):
        read_documents([str(tmp_path)])


@pytest.mark.parametrize("name", ["", " "])
def test_a_blank_name_is_not_the_current_folder(name, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("Good text.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClaraError, match=r"names no file or folder; use . for the current folder"):
        read_documents([name])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe with a name")
def test_a_pipe_with_a_name_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ClaraError, match=r"pipe.txt is no regular file; read a pipe as -"):
        read_documents([str(tmp_path / "pipe.txt")])


def test_sources_keep_their_order_and_come_once(tmp_path):
    for name in ("b.txt", "a.html"):
        (tmp_path / name).write_text("x")
    names = [str(tmp_path / "b.txt"), "hf://datasets/a/b", str(tmp_path), "hf://datasets/a/b"]
    assert sources_of(names) == ([tmp_path / "b.txt", "hf://datasets/a/b", tmp_path / "a.html"], [])

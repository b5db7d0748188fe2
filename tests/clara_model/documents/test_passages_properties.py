"""Properties of splitting that hold for any text: nothing is lost, everything fits, and order is kept."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_model.documents.passages import Document, read_documents, split_documents, split_text
from clara_model.inference.published import ClaraModel

SENTENCES = st.sampled_from(
    ["Ada came. ", "He left! ", "Dr. Reyl, ", "\n\n", "# Heading\n", "「はい。」", "e.g. this ", "x" * 40]
)
TEXTS = st.lists(SENTENCES | st.text(max_size=20), max_size=12).map("".join)
MOST = st.integers(4, 40)
"""Tokens a passage may have: a character of four bytes can be four tokens of a byte-level tokenizer."""


def without_space(text: str) -> str:
    return "".join(text.split())


@given(text=TEXTS, most=MOST)
def test_nothing_but_white_space_is_lost_and_every_stretch_fits(loaded: ClaraModel, text: str, most: int):
    stretches = list(split_text(text, loaded.tokens.count, most))
    assert without_space("".join(stretches)) == without_space(text)
    at = 0
    for stretch in stretches:
        assert stretch == stretch.strip() != ""
        assert loaded.tokens.count(stretch) <= most
        at = text.index(stretch, at) + len(stretch)


@given(text=TEXTS, most=MOST)
def test_a_text_that_fits_is_one_stretch(loaded: ClaraModel, text: str, most: int):
    stretches = list(split_text(text, loaded.tokens.count, most))
    if text.strip() and loaded.tokens.count(text) <= most and len(text) <= 8 * most:
        assert stretches == [text.strip()]


@given(texts=st.lists(TEXTS, max_size=4), most=MOST)
def test_passages_are_numbered_within_their_file(texts: list[str], most: int):
    documents = [Document(text=text, file=f"{n % 2}.txt") for n, text in enumerate(texts)]
    passages = split_documents(documents, len, most)
    for file in ("0.txt", "1.txt"):
        numbers = [passage.number for passage in passages if passage.file == file]
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents") / "facts.jsonl"


@given(texts=st.lists(st.text(st.characters(), max_size=30), min_size=1, max_size=4))
def test_json_lines_give_back_every_text_that_is_not_blank(file: Path, texts: list[str]):
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "The last one."]), encoding="utf-8")
    found = read_documents([str(file)])
    expected = [text for text in [*texts, "The last one."] if text.strip()]
    assert [document.text for document in found] == [
        "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text) for text in expected
    ]
    assert [document.line for document in found] == [n for n, text in enumerate([*texts, "x"], 1) if text.strip()]

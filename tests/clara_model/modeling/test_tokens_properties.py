"""Properties of tokenising that hold for any text: text is data, prompts have their slots, rows are padded left."""

import pytest
import small_model
import torch
from hypothesis import given
from hypothesis import strategies as st

from clara_model.inference.published import ClaraModel
from clara_model.modeling.plain_text import clean_text
from clara_model.modeling.tokens import Tokens

MARKERS = ["<MEM0>", "<MEM3>", "<AE>", "<ENC>", "<SEP>", "<s>", "</s>"]
"""Strings of special tokens of the small model: texts below often hold them."""
TEXTS = st.lists(st.text(max_size=30) | st.sampled_from(MARKERS), max_size=6).map("".join)
SURROGATES = st.text(st.characters(categories=["Cs", "Lu", "So"]), max_size=12)


@pytest.fixture(scope="module")
def tokens(loaded: ClaraModel) -> Tokens:
    return loaded.tokens


@given(text=TEXTS)
def test_a_text_is_itself_again_after_tokenising(tokens: Tokens, text: str):
    assert tokens.tokenizer.decode(tokens.plain_ids(text), clean_up_tokenization_spaces=False) == text


@given(text=TEXTS)
def test_a_document_has_its_frame_and_no_special_token_inside(tokens: Tokens, text: str):
    ids, memory = tokens.document_ids(text), tokens.memory_ids
    limit = tokens.config.doc_max_length + 3
    enc, bos, eos = (tokens.tokenizer.convert_tokens_to_ids(token) for token in ("<ENC>", "<s>", "</s>"))
    assert ids[:2] == [enc, bos] and ids[-len(memory) :] == memory
    inside = ids[2 : -len(memory)]
    whole = tokens.count(text) + 3 <= limit
    assert len(ids) == min(limit, tokens.count(text) + 3) + len(memory)
    assert (inside[-1] == eos) == whole
    assert not {*tokens.added_ids, bos, eos} & set(inside[:-1] if whole else inside)


@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_rows_are_padded_on_the_left_and_nowhere_else(tokens: Tokens, texts: list[str]):
    rows = [tokens.document_ids(text) for text in texts]
    padded = small_model.documents(tokens, texts)
    assert padded.ids.shape == padded.mask.shape == (len(texts), max(map(len, rows)))
    assert padded.mask.equal(padded.mask.cummax(dim=1).values)
    assert [row[keep.bool()].tolist() for row, keep in zip(padded.ids, padded.mask, strict=True)] == rows
    assert (padded.ids[padded.mask == 0] == tokens.tokenizer.pad_token_id).all()
    assert padded.lengths == tuple(min(tokens.count(text), tokens.config.doc_max_length + 1) for text in texts)


@given(question=TEXTS, documents=st.integers(0, 5))
def test_a_prompt_has_one_slot_a_document_whatever_is_asked(tokens: Tokens, question: str, documents: int):
    ids = tokens.prompt_ids(tokens.config.prompts.answer, documents, question)
    slots = [i for i in ids if i in tokens.added_ids]
    sep = tokens.tokenizer.convert_tokens_to_ids("<SEP>")
    assert slots == [*tokens.memory_ids, sep] * documents
    assert "".join(tokens.tokenizer.decode(ids).split()).count("".join(question.split())) >= 1


@given(question=TEXTS, answer=TEXTS, documents=st.integers(1, 3))
def test_training_learns_the_answer_after_the_prompt_that_is_served(
    tokens: Tokens, question: str, answer: str, documents: int
):
    prompt = tokens.config.prompts.answer
    served = tokens.prompt_ids(prompt, documents, question)
    example = tokens.example(prompt, documents, answer, 4096, question)
    assert example.ids[: len(served)] == served
    assert example.labels == [-100] * len(served) + example.ids[len(served) :]


@given(text=SURROGATES)
def test_a_cleaned_text_can_be_written_and_is_clean(text: str):
    clean = clean_text(text)
    assert clean.encode("utf-8").decode("utf-8") == clean == clean_text(clean)


@given(rows=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=6))
def test_padding_keeps_labels_apart_from_ids(tokens: Tokens, rows: list[list[int]]):
    labels, mask = tokens.pad(rows, -100)
    assert labels.dtype == mask.dtype == torch.long
    assert [row[row != -100].tolist() for row in labels] == rows
    assert mask.sum(dim=1).tolist() == [len(row) for row in rows]

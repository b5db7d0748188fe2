"""Ranking by shared words, without a model."""

import math

import pytest
from small_model import QUESTIONS, TEXTS

from clara_model.search.bm25 import BM25, Rarity, shared_words, words_of


@pytest.mark.parametrize(("question", "right"), list(zip(QUESTIONS, [0, 4, 2], strict=True)))
def test_the_text_that_shares_the_rare_words_comes_first(question: str, right: int):
    assert BM25(TEXTS).best(question, 1) == [right]
    assert BM25(TEXTS).shares(question).argmax() == right


def test_what_every_text_holds_says_little_and_case_says_nothing():
    index = BM25(["the the the the cat", "the OTTER ran", "the dog"])
    assert index.best("The otter", 3) == [1]
    assert index.scores("the otter").tolist() == index.scores("THE, Otter!").tolist()


def test_a_word_is_found_whatever_its_ending():
    texts = ["Its filters are cleaned in March.", "A clean copper mill."]
    assert BM25(texts).best("Who cleans the filter?", 2) == [0, 1]
    assert shared_words("Who cleans the filter?", texts[0]) == 1.0
    assert shared_words("Who cleans the filter?", texts[1]) == 0.5
    assert shared_words("?", texts[0]) == 0.0


def test_scores_are_the_formula_and_shares_lie_from_0_to_1():
    index = BM25(["red fox", "red red hen hill hay", "blue"])
    (rare, common) = (math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5))
    length = 8 / 3
    fox = rare / (1 + 1.5 * (0.25 + 0.75 * 2 / length))
    red = common / (1 + 1.5 * (0.25 + 0.75 * 2 / length))
    reds = common * 2 / (2 + 1.5 * (0.25 + 0.75 * 5 / length))
    assert index.scores("Red fox?").tolist() == pytest.approx([fox + red, reds, 0])
    assert index.shares("Red fox?").tolist() == pytest.approx(
        [(fox + red) / (rare + common), reds / (rare + common), 0]
    )
    unheard = math.log(1 + 3.5 / 0.5)
    assert index.shares("red unheard")[1] == pytest.approx(reds / (common + unheard))
    assert 0 < BM25(["red fox " * 5000, "x"]).shares("red fox " * 50)[0] < 1


@pytest.mark.parametrize("texts", [["", "a b", "?"], ["", "?"]])
def test_nothing_shared_is_0_for_all_and_finds_nothing(texts: list[str]):
    for question in ("", "?!", "unheard", "the of"):
        assert BM25(texts).shares(question).tolist() == BM25(texts).scores(question).tolist() == [0] * len(texts)
        assert BM25(texts).best(question, 2) == []


def test_equal_texts_stand_in_the_order_given():
    assert BM25(["cat hill", "dog", "cat hill", "cat hill"]).best("cat", 9) == [0, 2, 3]


def test_some_texts_of_many_have_the_shares_that_they_have_among_all():
    texts = [*TEXTS, "", "the of", TEXTS[0]]
    lengths = [len(words_of(text)) for text in texts]
    words = {word for question in QUESTIONS for word in words_of(question)}
    held = {word: sum(word in words_of(text) for text in texts) for word in words}
    rarity = Rarity(len(texts), sum(lengths) / len(texts), {word: count for word, count in held.items() if count})
    for question in [*QUESTIONS, "clock clock unheard", "?!"]:
        expected = BM25(texts).shares(question)[2:6].tolist()
        assert rarity.shares(question, texts[2:6]) == pytest.approx(expected)

"""Ranking by shared words, without a model."""

import math

import pytest
from small_model import QUESTIONS, TEXTS

from clara_model.search.bm25 import word_scores


def best(question: str, texts: list[str]) -> int:
    scores = word_scores(question, texts)
    return max(range(len(texts)), key=scores.__getitem__)


@pytest.mark.parametrize(("question", "right"), list(zip(QUESTIONS, [0, 4, 2], strict=True)))
def test_the_text_that_shares_the_rare_words_comes_first(question: str, right: int):
    assert best(question, TEXTS) == right


def test_what_every_text_holds_says_little_and_case_says_nothing():
    texts = ["the the the the cat", "the OTTER ran", "the dog"]
    assert best("The otter", texts) == 1
    assert word_scores("the otter", texts) == word_scores("THE, Otter!", texts)


def test_scores_are_the_formula_and_lie_from_0_to_1():
    texts = ["red fox", "red red hen and more", "blue"]
    (rare, common) = (math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5))
    length = 8 / 3
    fox = rare * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 2 / length))
    red = common * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 2 / length))
    assert word_scores("red fox", texts)[0] == pytest.approx((fox + red) / ((rare + common) * 2.5))
    assert word_scores("red fox", texts)[2] == 0
    assert 0 < word_scores("red fox " * 50, ["red fox " * 5000, "x"])[0] < 1


@pytest.mark.parametrize("question", ["", "?!", "unheard"])
def test_nothing_shared_is_0_for_all(question: str):
    assert word_scores(question, ["", "a b", "?"]) == [0, 0, 0]

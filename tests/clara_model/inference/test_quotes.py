"""Where an answer's words stand in what was read; numbers and names that stand nowhere."""

import pytest

from clara_model.inference.quotes import Quote, quotes, unsupported
from clara_model.windows import Window

NOTES = [
    (Window(document=4), "Orders above 1,450 euros need two signatures. Nora Fields signs first."),
    (Window(document=2, start=100), "the turnover rose to 3.86 million; Fields left in 2019."),
]


def shown(answer: str) -> list[tuple[str, int, str]]:
    """Each quote: of the answer, the document, and of the document."""
    texts = {window.document: " " * window.start + text for window, text in NOTES}
    return [
        (answer[one.start : one.end], one.document, texts[one.document][one.document_start : one.document_end])
        for one in quotes(answer, NOTES)
    ]


def test_the_places_are_characters_of_the_answer_and_of_the_document():
    assert quotes("In 3.86 million", NOTES) == [
        Quote(start=3, end=15, document=2, document_start=121, document_end=133)
    ]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("1450 Euros", [("1450 Euros", 4, "1,450 euros")]),
        ("NORA FIELDS, in 2019", [("NORA FIELDS", 4, "Nora Fields"), ("in 2019", 2, "in 2019")]),
        ("Fields left", [("Fields left", 2, "Fields left")]),  # the longer run, though Fields stands earlier too
        ("Fields", [("Fields", 4, "Fields")]),
        ("450 euros", [("euros", 4, "euros")]),
        ("86 million", [("million", 2, "million")]),
        ("the in to", []),
        ("", []),
    ],
)
def test_runs_of_words_are_found_whole_and_as_long_as_they_are(answer: str, found: list[tuple[str, int, str]]):
    assert shown(answer) == found


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("450 euros", ["450"]),
        ("1450 euros", []),
        ("38.6 million in 2019", ["38.6"]),
        ("Nora", []),
        ("Norah", ["Norah"]),
        ("Norah Fields", ["Norah"]),
        ("Signed by Elmo Fields of Elmo", ["Elmo"]),
        ("About a million. Probably more", []),
        ("Yes", []),
        ("The clerk is Abel. Abel 7 signs", ["Abel", "7"]),
        ("2031", []),  # the question says so
        ("", []),
    ],
)
def test_numbers_and_names_that_stand_nowhere_are_told(answer: str, missing: list[str]):
    assert unsupported(answer, "What of 2031?", NOTES) == missing


def test_without_passages_nothing_is_quoted():
    assert quotes("Nora 5", []) == [] and unsupported("Nora 5", "Who?", []) == ["Nora", "5"]

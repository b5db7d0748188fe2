"""The calls of the published model card: misuse is one sentence with the value, and instruction text is data."""

import re

import pytest
from small_model import QUESTIONS, TEXTS

from clara_model import ClaraModel

ROWS = [TEXTS[:2]]
MISUSE = [
    ({"stop": None}, TypeError, "stop must be a string or a list of strings (an empty one for none), got None"),
    ({"temperature": []}, TypeError, "temperature must be a number, got []"),
    ({"max_new_tokens": "x"}, TypeError, "max_new_tokens must be a whole number, got 'x'"),
    ({"generation_top_k": True}, TypeError, "generation_top_k must be a whole number, got True"),
    ({"generation_top_k": 0}, ValueError, "generation_top_k must be at least 1, got 0"),
    ({"seed": float("inf")}, TypeError, "seed must be a whole number, got inf"),
]


@pytest.mark.parametrize(("options", "error", "message"), MISUSE)
def test_a_misuse_of_answering(loaded: ClaraModel, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        loaded.generate_from_questions(QUESTIONS[:1], ROWS, **{"max_new_tokens": 2, **options})


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([], {}, ValueError, "expected at least one list of documents, got none"),
        ([[]], {}, ValueError, "expected at least one document, got none"),
        (ROWS, {"instruction": 1.5}, TypeError, "instruction must be a whole number from 0 to 3"),
        (ROWS, {"instruction": True}, ValueError, "instruction must be a whole number from 0 to 3"),
    ],
)
def test_a_misuse_of_paraphrasing(loaded: ClaraModel, rows, options, error, message):
    with pytest.raises(error, match=message):
        loaded.generate_from_paraphrase([], rows, 2, **options)


def test_a_stop_string_ends_a_text_as_a_whole(loaded: ClaraModel):
    (whole,) = loaded.generate_from_text(QUESTIONS[:1], ROWS, 12)
    stop = whole[2:5]
    assert loaded.generate_from_text(QUESTIONS[:1], ROWS, 12, stop=stop) == [whole[: whole.index(stop)]]


@pytest.mark.parametrize("instruction", ["<MEM0> {memory}", "{memory}<SEP></s>", "<{memory}MEM0>"])
def test_an_instruction_that_holds_markers_is_followed_as_text(loaded: ClaraModel, instruction: str):
    assert len(loaded.generate_from_paraphrase([], ROWS, 2, instruction=instruction)) == 1


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(loaded: ClaraModel):
    how = {"do_sample": True, "temperature": 1.4, "seed": 5}
    together = loaded.generate_from_text(QUESTIONS, [TEXTS[:2]] * 3, 6, **how)
    assert together == [loaded.generate_from_text([q], ROWS, 6, **how)[0] for q in QUESTIONS]

"""What callers pass in: every misuse is one sentence with the value in it, and what is right comes out plain."""

import enum
import re

import pytest

from clara_model.checkpoint.prompts import Prompt
from clara_model.errors import ClaraError
from clara_model.validation import (
    Generation,
    check_instruction,
    check_question,
    check_texts,
    check_turns,
)


class Asked(str, enum.Enum):  # noqa: UP042 - format() of it is its name
    WHO = "Who is it?"


MISUSE = [
    ({"stop": None}, TypeError, "stop must be a string or a list of strings (an empty one for none), got None"),
    ({"stop": 5}, TypeError, "stop must be a string or a list of strings (an empty one for none), got 5"),
    ({"stop": b"x"}, TypeError, "stop must be a string or a list of strings (an empty one for none), got b'x'"),
    ({"stop": [None]}, ValueError, "stop must hold strings that are not empty, got [None]"),
    ({"stop": ""}, ValueError, "stop must hold strings that are not empty, got ['']"),
    ({"stop": "\ud800"}, ValueError, r"stop holds half a character, which no text ends with: '\ud800'"),
    ({"max_new_tokens": "x"}, TypeError, "max_new_tokens must be a whole number, got 'x'"),
    ({"max_new_tokens": True}, TypeError, "max_new_tokens must be a whole number, got True"),
    ({"max_new_tokens": -3}, ValueError, "max_new_tokens must be at least 1, got -3"),
    ({"temperature": []}, TypeError, "temperature must be a number, got []"),
    ({"temperature": "hot"}, TypeError, "temperature must be a number, got 'hot'"),
    ({"temperature": float("nan")}, ValueError, "temperature must be at least 0, got nan"),
    ({"temperature": -0.5}, ValueError, "temperature must be at least 0, got -0.5"),
    ({"top_p": 0}, ValueError, "top_p must be above 0 and at most 1, got 0"),
    ({"top_p": True}, TypeError, "top_p must be a number, got True"),
    ({"min_p": 2}, ValueError, "min_p must be from 0 to 1, got 2"),
    ({"sampling_top_k": 1.5}, TypeError, "sampling_top_k must be a whole number, got 1.5"),
    ({"num_beams": 0}, ValueError, "num_beams must be at least 1, got 0"),
    ({"repetition_penalty": 0.0}, ValueError, "repetition_penalty must be above 0, got 0.0"),
    ({"length_penalty": float("inf")}, ValueError, "length_penalty must be finite, got inf"),
    ({"do_sample": 1}, TypeError, "do_sample must be True or False, got 1"),
    ({"early_stopping": "soon"}, TypeError, "early_stopping must be True, False or 'never', got 'soon'"),
    ({"seed": float("inf")}, TypeError, "seed must be a whole number, got inf"),
    ({"seed": -1}, ValueError, "seed must be from 0 to 2**63 - 1, got -1"),
    ({"seed": 2**80}, ValueError, f"seed must be from 0 to 2**63 - 1, got {2**80}"),
    (
        {"min_new_tokens": 9, "max_new_tokens": 8},
        ValueError,
        "min_new_tokens must be at most max_new_tokens (8), got 9",
    ),
    ({"heat": 1}, TypeError, "unknown sampling argument heat; known are do_sample, temperature"),
]


def test_a_misuse_of_generation_is_one_sentence_with_the_value():
    for options, error, message in MISUSE:
        how = {"max_new_tokens": 8, "stop": (), **options}
        with pytest.raises(error, match=re.escape(message)) as caught:
            Generation.check(how.pop("max_new_tokens"), how.pop("stop"), how)
        assert "\n" not in str(caught.value)


def test_a_value_in_an_error_is_short():
    with pytest.raises(TypeError) as caught:
        Generation.check(8, (), {"temperature": list(range(100_000))})
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({"temperature": 0.7, "seed": 3}, {"temperature": 0.7, "do_sample": True}),
        ({"temperature": 0, "top_p": 0.5}, {"do_sample": False}),
        ({"sampling_top_k": 5}, {"top_k": 5, "do_sample": True}),
        ({"do_sample": False, "temperature": 1.0}, {"do_sample": False}),
        ({"temperature": None, "num_beams": 2}, {"num_beams": 2}),
    ],
)
def test_what_is_given_says_how_to_draw(options, sampling):
    how = Generation.check(8, "end", options)
    assert (how.sampling, how.stop, how.seed) == (sampling, ("end",), options.get("seed"))
    assert how.one_by_one == (options.get("seed") is not None)


@pytest.mark.parametrize("value", [1.5, True, [], None, b"x"])
def test_an_instruction_that_is_neither_number_nor_wording(value):
    with pytest.raises((TypeError, ValueError), match=r"instruction must be a whole number from 0 to 1 \(a wording"):
        check_instruction(value, Prompt(user=("a {memory}", "b {memory}")))


@pytest.mark.parametrize("value", [-1, 2])
def test_an_instruction_out_of_range(value):
    with pytest.raises(ValueError, match=f"or a wording of your own with {{memory}} in it, got {value}"):
        check_instruction(value, Prompt(user=("a {memory}", "b {memory}")))


def test_an_instruction_of_ones_own():
    own, wording = check_instruction("Say {memory} again", Prompt(system="S"))
    assert (own, wording) == (Prompt(system="S", user=("Say {memory} again",)), 0)
    with pytest.raises(ClaraError, match=r"must hold \{memory\} exactly once, got 'Say it'"):
        check_instruction("Say it", Prompt())


def test_members_of_string_enumerations_are_their_values():
    for found in (check_question(Asked.WHO), check_texts([Asked.WHO])[0], check_turns(Asked.WHO)[0]["content"]):
        assert found == "Who is it?" and type(found) is str


@pytest.mark.parametrize("value", [b"abc", bytearray(b"abc"), 5, {"a"}, iter(["a"])])
def test_what_is_no_list_of_texts(value):
    with pytest.raises(TypeError, match=f"expected a list of documents, got {type(value).__name__}"):
        check_texts(value)


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], ValueError, "expected at least one message, got none"),
        (5, TypeError, "expected a prompt or a list of messages, got int"),
        (["hello"], TypeError, "a message must have a role and a content, got 'hello'"),
        ([{"role": "user"}], TypeError, "a message must have a role and a content, got {'role': 'user'}"),
        ([{"role": "user", "content": 5}], TypeError, "message content must be a string, got int (5)"),
        ([{"role": "<MEM0>", "content": "a"}], ValueError, "role must be one word, such as user, assistant or system"),
    ],
)
def test_what_is_no_conversation(prompt, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_turns(prompt)

"""Replies of chat models as they come: what can be read is read, the rest is refused with a reason."""

import pytest

from trainers.data.synthesis.parsing import MalformedReply, Pair, read_pairs, read_paraphrase, read_verdict

ANN, SEA = Pair("Who came?", "Ann"), Pair("Where is it?", "by the sea")
JSON = '[{"question": "Who came?", "answer": "Ann"}, {"question": "Where is it?", "answer": "by the sea"}]'


@pytest.mark.parametrize(
    "reply",
    [
        JSON,
        f"Sure! Here they are:\n```json\n{JSON}\n```\nHope this helps [1].",
        f"<think>The document [x] says {{...}}</think>\n\n{JSON}",
        f'{{"pairs": {JSON}}}',
        '{"questions": ["Who came?", "Where is it?"], "answers": ["Ann", "by the sea"]}',
        '{"question": "Who came?", "answer": "Ann"}\n{"question": "Where is it?", "answer": "by the sea"}',
        '[{"Question": "Who came?", "Answer": "Ann"}, {"q": "Where is it?", "a": "by the sea"}, {"q": "cut',
        "1. Who came? Ann\n2. Where is it? by the sea",
        "1) **Who came?** - Ann\n2) **Where is it?** - by the sea",
        "Q: Who came?\nA: Ann\n\nQ: Where is it?\nA: by the sea",
        "1. Question: Who came? Answer: Ann\n2. Question: Where is it? Answer: by the sea",
        "Here are the questions:\n1. Who came?\n   - Ann\n2. Where is it?\n   - by the sea",
        "**Question 1:** Who came?\n**Answer 1:** Ann\n**Question 2:** Where is it?\n**Answer 2:** by the sea",
    ],
)
def test_pairs_are_read_from_every_common_form(reply):
    assert read_pairs(reply) == [ANN, SEA]


@pytest.mark.parametrize("reply", ["[]", "```json\n[]\n```", "None", "Everything is covered.", '{"questions": []}'])
def test_nothing_more_to_ask_is_no_error(reply):
    assert read_pairs(reply) == []


@pytest.mark.parametrize("reply", ["", "I cannot help with that.", "[[[", "<think>so many", '[{"question": "Who?"}]'])
def test_other_replies_are_malformed(reply):
    with pytest.raises(MalformedReply, match="neither JSON nor a list"):
        read_pairs(reply)


def test_answers_that_are_not_strings_become_text_and_blank_ones_are_left_out():
    reply = '[{"question": "How many?", "answer": 3}, {"question": "Is it?", "answer": true}, '
    reply += '{"question": "Which?", "answer": ["a", "b"]}, {"question": "What?", "answer": " "}]'
    assert read_pairs(reply) == [Pair("How many?", "3"), Pair("Is it?", "yes"), Pair("Which?", "a, b")]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("yes", True), ("No.", False), ("**Yes**, because it is there.", True), ("<think>no?</think>yes", True),
        ('{"verdict": "no"}', False), ('{"supported": true}', True), ("The answer is: yes.", True), ("YES", True),
    ],
)  # fmt: skip
def test_verdicts_are_read(reply, verdict):
    assert read_verdict(reply) is verdict


@pytest.mark.parametrize("reply", ["", "maybe", "yes or no", "Nobody knows", "There is no doubt that it holds"])
def test_a_verdict_that_is_not_clear_is_malformed(reply):
    with pytest.raises(MalformedReply):
        read_verdict(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "It was Ann who came.",
        'Here is the paraphrase:\n\n"It was Ann who came."',
        "Sure, here's a rewritten version: It was Ann who came.",
        '{"paraphrase": "It was Ann who came."}',
        "```\nIt was Ann who came.\n```",
    ],
)
def test_a_paraphrase_is_read_without_what_stands_around_it(reply):
    assert read_paraphrase(reply, "Ann came.") == "It was Ann who came."


def test_a_colon_in_the_paraphrase_itself_cuts_nothing():
    text = "One version remained: the words of 1911."
    assert read_paraphrase(text, "") == text


@pytest.mark.parametrize("reply", ["", "Ann  came.", "<think>Ann"])
def test_no_text_and_the_document_itself_are_no_paraphrase(reply):
    with pytest.raises(MalformedReply):
        read_paraphrase(reply, "Ann came.")

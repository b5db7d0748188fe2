"""Random calls of `Clara`: what comes back keeps its promises, and what is refused is one sentence for a user.

``python -m pytest tests/fuzz --fuzz-examples 2000`` looks longer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_model import ClaraModel
from clara_model.inference.clara import Answer, Clara
from clara_model.windows import Window

fuzz = settings.get_profile("fuzz")

MARKERS = ["<MEM0>", "<MEM3>", "<SEP>", "<ENC>", "<s>", "</s>", "{memory}", "{question}", "\ue000", "\ue0000\ue001"]
WORDS = st.sampled_from(
    ["The clock", "of Osmere", "was rebuilt.", "Who?", "In 1962", ".", "\n\n", " ", "\ud800", "x" * 90]
)
TEXT = st.lists(WORDS | st.sampled_from(MARKERS) | st.text(max_size=8), max_size=14).map(" ".join)
ASKED = TEXT.filter(lambda text: bool(text.strip()))
TEXTS = st.lists(TEXT, min_size=1, max_size=4)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**70, -(2**70), float("nan"), float("inf"), -0.5, 1.5, b"x", "", " ", "\ud800", "never", object]),
    st.lists(st.none() | st.text(max_size=2) | st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)
NUMBERS = ("temperature", "top_p", "sampling_top_k", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size")
HOW = st.dictionaries(
    st.sampled_from([*NUMBERS, "stop", "do_sample", "seed", "min_new_tokens", "length_penalty", "heat"]),
    JUNK | st.integers(1, 3) | st.floats(0.1, 1.0),
    max_size=2,
)
GREEDY = {"max_new_tokens": 3}


@pytest.fixture(scope="module")
def clara(tiny_clara_folder) -> Clara:
    return Clara(ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu"))


def sentence_or(call: Any) -> Any:
    """What a call gives back, or None where it is refused in one sentence; anything else is a finding."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 600, repr(error)
        assert not any(word in text for word in ("NoneType' object", "positional argument", "not subscriptable")), text
        return None


def check_answer(answer: Answer, texts: list[str], k: int) -> None:
    """What an answer promises."""
    assert isinstance(answer.text, str) and answer.finish_reason in ("stop", "length")
    assert sorted(one.index for one in answer.ranking) == list(range(len(texts)))
    scores = [one.score for one in answer.ranking]
    assert scores == sorted(scores, reverse=True) and all(-1.001 <= score <= 1.001 for score in scores)
    assert len(answer.windows) == len(answer.selected) == len(answer.citations) <= k
    assert [window.document for window in answer.windows] == answer.selected
    assert len(set(answer.windows)) == len(answer.windows)
    assert answer.usage.text_tokens <= answer.usage.read_tokens
    assert answer.usage.slots == 4 * len(answer.windows)


@fuzz
@given(question=ASKED, texts=TEXTS, k=st.integers(1, 6))
def test_any_text_is_answered(clara: Clara, question: str, texts: list[str], k: int):
    check_answer(clara.answer(question, texts, k, **GREEDY), texts, k)


@fuzz
@given(question=TEXT | JUNK, texts=TEXTS | JUNK, k=JUNK | st.integers(1, 4), how=HOW, count=st.just(2) | JUNK)
def test_any_call_is_served_or_refused_in_a_sentence(
    clara: Clara, question: Any, texts: Any, k: Any, how: dict[str, Any], count: Any
):
    for call in (
        lambda: clara.answer(question, texts, k, max_new_tokens=count, **how),
        lambda: clara.answers([question], texts, k, max_new_tokens=count, **how)[0],
        lambda: next(iter(clara.stream(question, texts, k, max_new_tokens=count, **how)), ""),
    ):
        found = sentence_or(call)
        assert found is None or isinstance(found, (Answer, str))
    ranking = sentence_or(lambda: clara.rank(question, texts, k))
    assert ranking is None or len(ranking) <= len(texts)


@fuzz
@given(
    texts=TEXTS | JUNK,
    instruction=JUNK | TEXT | TEXT.map(lambda text: "".join([text.replace("{memory}", ""), "{memory}"])),
    roles=st.lists(st.sampled_from(["user", "assistant", "system", "<MEM0>", "a b", ""]) | JUNK, max_size=3),
)
def test_any_paraphrase_and_any_conversation(clara: Clara, texts: Any, instruction: Any, roles: list[Any]):
    told = sentence_or(lambda: clara.paraphrase(texts, instruction=instruction, **GREEDY))
    assert told is None or len(told) == len(texts)
    turns = [{"role": role, "content": instruction} for role in roles]
    found = sentence_or(lambda: clara.plain(turns, **GREEDY))
    assert found is None or found.usage.slots == 0


@fuzz
@given(texts=TEXTS, other=TEXT)
def test_a_latent_is_the_same_to_the_bit_in_any_company(clara: Clara, texts: list[str], other: str):
    together = Clara(clara.model).compress([other, *texts])
    apart = torch.cat([Clara(clara.model).compress([text]).vectors for text in texts])
    assert torch.equal(together.vectors[-len(apart) :], apart)


@fuzz
@given(text=st.lists(TEXT, max_size=12).map("\n".join))
def test_windows_leave_nothing_out(clara: Clara, text: str):
    places = clara.model.tokens.windows(text)
    windows = [Window(document=0, number=n, start=start, end=end) for n, (start, end) in enumerate(places)]
    pieces = [text[window.start : window.end] for window in windows]
    assert all(one.end <= other.start for one, other in pairwise(windows))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(clara.count_tokens(piece) <= clara.doc_max_length for piece in pieces) or not text.strip()
    assert pieces == [text] or all(piece == piece.strip() for piece in pieces)


@fuzz
@given(question=ASKED, texts=TEXTS, seed=st.integers(0, 2**63 - 1))
def test_a_stream_and_a_batch_write_what_one_call_writes(clara: Clara, question: str, texts: list[str], seed: int):
    how = {**GREEDY, "temperature": 1.3, "seed": seed}
    one = clara.answer(question, texts, **how)
    with clara.stream(question, texts, **how) as stream:
        assert "".join(stream) == one.text
    assert [answer.text for answer in clara.answers([question, "Who?", question], texts, **how)][::2] == [one.text] * 2

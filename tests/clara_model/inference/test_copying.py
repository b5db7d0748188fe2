"""Answers that are a stretch of what was read: against every stretch scored by itself, and what is refused."""

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_model import QUESTIONS, TEXTS, build_model, build_tokenizer

from clara_model import ClaraModel
from clara_model.checkpoint.certainty import Certainty
from clara_model.checkpoint.config import ClaraConfig
from clara_model.checkpoint.prompts import PromptSet
from clara_model.errors import ClaraError
from clara_model.inference.clara import Clara
from clara_model.inference.quotes import unsupported
from clara_model.latents import Latents
from clara_model.modeling import copying
from clara_model.modeling.copying import stretches
from clara_model.modeling.tokens import Tokens

LONG = "\n\n".join(TEXTS)


def offered(text: str) -> set[str]:
    return {text[one.start : one.end] for beginning in stretches([text]) for one in beginning}


def mean_log(model: ClaraModel, ids: list[int], latents: torch.Tensor, answer: str, role: str = "generator") -> float:
    """Of an answer's tokens and its end, by one pass over prompt and answer with the base's own layers."""
    written = [*model.tokens.answer_ids(answer), model.tokens.tokenizer.eos_token_id]
    embeds = model.fill_slots(torch.tensor([[*ids, *written]]), latents)
    with torch.no_grad(), model.roles.acting_as(role):
        logs = model.base(inputs_embeds=embeds).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    return logs[range(len(written)), written].mean().item()


# -- which stretches there are -----------------------------------------------------------------------------------------


def test_words_and_numbers_are_whole():
    text = "It cost $15,000.50 (12%), 3.86 m at 10:30 in D.C., said A320."
    found = offered(text)
    for whole in ("$15,000.50", "12%", "3.86", "3.86 m", "10:30", "D.C.", "D.C", "A320", "It cost $15,000.50"):
        assert whole in found
    for part in ("15", "000", "15,000", "15,000.50", "12", "3", "86", "86 m", "30", "320", "$", "cost $"):
        assert part not in found
    assert all(one[0].isalnum() or one[0] == "$" for one in found)


def test_a_stretch_has_at_most_twelve_words_and_stands_in_one_passage():
    text = " ".join(f"w{number}" for number in range(30))
    assert max(len(one.split()) for one in offered(text)) == 12
    assert len(offered(text)) == sum(min(12, 30 - number) for number in range(30))
    assert {one.passage for beginning in stretches(["a b", "", "c"]) for one in beginning} == {0, 2}


def test_marks_belong_to_their_letter():
    word = "\u0939\u093f\u0928\u094d\u0926\u0940"
    assert offered(word) == {word}


# -- which is chosen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expand", [0, 1])
@pytest.mark.parametrize("number", range(3))
def test_the_best_of_all_stretches_is_copied(loaded: ClaraModel, monkeypatch, expand: int, number: int):
    monkeypatch.setattr(copying, "BEGINNINGS", 1000)
    question, texts = QUESTIONS[number], TEXTS[number : number + 2]
    answer = Clara(loaded, expand=expand).answer(question, texts, top_k=2, rerank=False, copy=True)
    prompt = loaded.config.prompts.answer
    ids = loaded.tokens.prompt_ids(prompt, 2 - expand, question, text="\n\n".join(texts[:expand]))
    latents = loaded.compress(texts).vectors[expand:]
    every = set().union(*map(offered, texts))
    scores = {one: mean_log(loaded, ids, latents, one) for one in every}
    assert scores[answer.text] == pytest.approx(max(scores.values()), abs=1e-5)
    assert answer.confidence == pytest.approx(math.exp(scores[answer.text]), rel=1e-4)
    assert (answer.finish_reason, answer.usage.prompt_tokens) == ("stop", len(ids))
    assert answer.usage.completion_tokens == len(loaded.tokens.answer_ids(answer.text)) + 1


def test_only_the_likeliest_beginnings_are_scored(loaded: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    """The first tokens of the stretches from eight places are no less likely than those of all others."""
    made = copying._likeliest
    seen = {}

    def noted(tokens, passages, first, most):
        seen["offered"], seen["first"] = made(tokens, passages, first, most), first
        return seen["offered"]

    monkeypatch.setattr(copying, "_likeliest", noted)
    Clara(loaded).answer(QUESTIONS[0], TEXTS, top_k=5, copy=True)
    first = {ids[0] for ids in seen["offered"]}
    assert len({(one.passage, one.start) for one in seen["offered"].values()}) == copying.BEGINNINGS
    left = {loaded.tokens.answer_ids(one)[0] for text in TEXTS for one in offered(text)} - first
    assert left and max(seen["first"][one] for one in left) <= min(seen["first"][one] for one in first)


def test_the_answer_is_a_quote_of_all_of_it_and_nothing_is_unsupported(loaded: ClaraModel):
    documents = [f"{TEXTS[4]} It cost $1,450.50.", LONG]
    answers = Clara(loaded, expand=1).answers(QUESTIONS, documents, top_k=3, copy=True)
    for answer in answers:
        (quote,) = answer.quotes
        assert (quote.start, quote.end) == (0, len(answer.text)) and answer.text
        assert documents[quote.document][quote.document_start : quote.document_end] == answer.text
        assert quote.document in answer.selected and answer.unsupported == [] and not answer.no_answer


def test_every_stretch_is_supported_by_its_text():
    draw = random.Random(3)
    pieces = [
        "12",
        "1,450",
        "3.5%",
        "$7",
        "Nora",
        "O'Brien",
        "B2B",
        "x_1",
        "10:30",
        "D.C.",
        "e.g.",
        "-",
        "(",
        ")",
        "\n",
    ]
    for _ in range(30):
        text = "".join(draw.choice(pieces) + draw.choice(["", " ", ", "]) for _ in range(12))
        passage = [(None, text)]
        assert [one for one in offered(text) if unsupported(one, "", passage)] == []


def test_copies_in_a_batch_one_by_one_streamed_from_latents_and_from_a_store_are_the_same(
    loaded: ClaraModel, tmp_path: Path
):
    rows = [TEXTS, [LONG, "x"], TEXTS[:1]]
    with Clara(loaded, expand=1, store=tmp_path / "store") as stored:
        clara = Clara(loaded, expand=1)
        for question, row, found in zip(QUESTIONS, rows, clara.answers(QUESTIONS, rows, 2, copy=True), strict=True):
            with clara.stream(question, row, 2, copy=True) as stream:
                assert list(stream) == [found.text]
            others = [stream.answer, clara.answer(question, row, 2, copy=True, seed=3, temperature=0)]
            others += [clara.answer(question, clara.compress(row), 2, copy=True)]
            others += [stored.answer(question, row, 2, copy=True)]
            assert [replace(one, timings=found.timings) for one in others] == [found] * 4
        asked = stored.search(QUESTIONS[0], 2)
        kept = stored.answer(QUESTIONS[0], asked.latents, 2, rerank=False, copy=True)
        assert kept.text and any(kept.text in one.text for one in asked)


def test_candidates_without_latents_are_copied_by_the_base_alone(loaded: ClaraModel):
    with Clara(loaded, cold="text") as clara:
        answer = clara.answer(QUESTIONS[0], TEXTS, top_k=2, copy=True)
    assert answer.answered_from == "text" and any(answer.text in TEXTS[index] for index in answer.selected)
    read = [TEXTS[index] for index in answer.selected]
    ids = loaded.tokens.text_prompt_ids(loaded.config.prompts.answer, "\n\n".join(read), QUESTIONS[0])
    nothing = loaded.compress(TEXTS[:1]).vectors[:0]
    assert answer.confidence == pytest.approx(math.exp(mean_log(loaded, ids, nothing, answer.text, "base")), rel=1e-4)


def test_a_copy_is_no_longer_than_asked_for(loaded: ClaraModel):
    clara = Clara(loaded)
    for most in (2, 4):
        answer = clara.answer(QUESTIONS[0], ["a " * 40], copy=True, max_new_tokens=most)
        assert answer.text and answer.usage.completion_tokens <= most


@pytest.mark.parametrize("texts", [[""], ["?! ..."], [" ", "\n"]])
def test_where_nothing_can_be_copied_the_answer_is_empty(loaded: ClaraModel, texts: list[str]):
    answer = Clara(loaded).answer(QUESTIONS[0], texts, copy=True)
    assert (answer.text, answer.confidence, answer.quotes, answer.usage.completion_tokens) == ("", 0.0, [], 0)


@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_that_nothing_answers_is_one_more_answer(base_folder: Path, bias: float):
    """`Certainty` of the first tokens decides, as it does for an answer in the generator's own words."""
    prompts = PromptSet(no_answer="Nothing says so.", certainty=Certainty(bias=bias, refuse_below=0.3))
    clara = Clara(build_model(base_folder, prompts=prompts))
    answer = clara.answer(QUESTIONS[0], TEXTS, copy=True)
    assert answer.no_answer == (bias < 0) == (answer.text == "Nothing says so.")
    assert (answer.confidence < 0.3) == answer.no_answer and bool(answer.quotes) != answer.no_answer
    assert clara.answer(QUESTIONS[0], ["..."], copy=True).no_answer


def test_through_the_bases_own_layers_the_same_is_copied(base_folder: Path, monkeypatch: pytest.MonkeyPatch):
    def copy() -> list[str]:
        clara = Clara(build_model(base_folder), expand=1)
        return [clara.answer(question, TEXTS, 3, copy=True).text for question in QUESTIONS]

    plain = copy()
    monkeypatch.setattr("clara_model.modeling.merged.fits", lambda base: False)
    assert copy() == plain


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"copy": 1}, TypeError, "copy must be True or False, got 1"),
        ({"copy": True, "temperature": 0.7}, ValueError, "only max_new_tokens counts; leave out temperature"),
        ({"copy": True, "num_beams": 3}, ValueError, "leave out num_beams"),
        ({"copy": True, "stop": ["x"], "top_p": 0.5}, ValueError, "leave out stop, top_p"),
    ],
)
def test_what_goes_with_no_copy_is_refused(loaded: ClaraModel, options: dict, kind: type, message: str):
    with pytest.raises(kind, match=re.escape(message)):
        Clara(loaded).answer(QUESTIONS[0], TEXTS, **options)


def test_what_is_no_answer_from_documents_is_not_copied(loaded: ClaraModel):
    clara, message = Clara(loaded), "copy=True copies an answer from documents, and there are none; leave it out"
    for call, given in ((clara.plain, "Hello"), (clara.stream_plain, "Hello"), (clara.paraphrase, TEXTS)):
        with pytest.raises(ValueError, match=message):
            call(given, copy=True)


def test_latents_without_texts_are_refused(loaded: ClaraModel):
    clara = Clara(loaded)
    bare: Latents = replace(clara.compress(TEXTS), texts=None)
    with pytest.raises(ClaraError, match="copies from the texts of what is read, and these latents have none; give"):
        clara.answers(QUESTIONS[:2], [TEXTS, bare], copy=True)


def test_numbers_are_whole_in_the_tokens_too():
    """A tokenizer that has learned what follows a number: the tokens of a stretch are those of its own text."""
    tokens = Tokens(build_tokenizer(["15,", "15,000 seats", "15,000"]), ClaraConfig(base_model="small"))
    first = [0.0] * len(tokens)
    found = copying._likeliest(tokens, ["It has 15,000 seats."], first, 64)
    assert {
        ids: tuple(tokens.answer_ids("It has 15,000 seats."[one.start : one.end])) for ids, one in found.items()
    } == {ids: ids for ids in found}

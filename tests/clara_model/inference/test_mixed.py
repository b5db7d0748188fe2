"""Words beside latents in the ranking, and the best windows as text: hand-made cases, and one by one as in batches."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_model import QUESTIONS, TEXTS, build_model

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.inference import pipeline
from clara_model.inference.clara import Clara
from clara_model.inference.pipeline import Candidates, Encoded
from clara_model.search.bm25 import BM25

SHORT = {"max_new_tokens": 5}
LONG = "\n\n".join(TEXTS)


def mixed(model: ClaraModel, expand: int = 1, **options) -> Clara:
    return Clara(model, ranking="hybrid", expand=expand, **options)


# -- ranking ----------------------------------------------------------------------------------------------------------


def test_the_score_is_the_latents_and_the_weighted_share_of_words():
    """Three blocks at right angles, a question along the second; two words of equal rarity, one text holds both."""
    blocks = Encoded(torch.eye(3)[:, None], (2, 2, 2))
    row = Candidates(blocks, range(3), texts=["red fox", "a hen", "red hen"])
    question = torch.tensor([[[0.0, 1.0, 0.0]]])
    found = pipeline.rank(question, [row], "cosine", ["red hen"], 0.5)[0]
    word = math.log(1 + 1.5 / 2.5)
    held = word / (1 + 1.5 * (0.25 + 0.75 * 2 / (5 / 3))), word / (1 + 1.5 * (0.25 + 0.75 * 1 / (5 / 3)))
    words = {0: held[0] / (2 * word), 1: held[1] / (2 * word), 2: 2 * held[0] / (2 * word)}
    assert [one.index for one in found] == [1, 2, 0]
    for one in found:
        assert one.by == "both" and one.latents == float(one.index == 1)
        assert one.words == pytest.approx(words[one.index])
        assert one.score == pytest.approx(one.latents + 0.5 * words[one.index])


def test_words_may_turn_the_order_and_their_weight_is_the_checkpoints(base_folder: Path):
    model = build_model(base_folder, word_weight=100.0)
    ranked = Clara(model).rank(QUESTIONS[0], TEXTS)
    assert ranked[0].index == 0 and {one.by for one in ranked} == {"both"}
    assert [one.index for one in ranked[:1]] != [
        one.index for one in Clara(model, ranking="latents").rank(QUESTIONS[0], TEXTS)[:1]
    ]
    one_by_one = Clara(build_model(base_folder), ranking="hybrid").rank(QUESTIONS[0], TEXTS)
    assert all(one.score == one.latents + one.words for one in one_by_one)


def test_without_a_weight_a_checkpoint_ranks_by_latents(loaded: ClaraModel):
    ranked = Clara(loaded).rank(QUESTIONS[0], TEXTS)
    assert all((one.by, one.words, one.latents) == ("latents", None, one.score) for one in ranked)


def test_equal_texts_stand_in_the_order_given(loaded: ClaraModel):
    texts = [TEXTS[1], TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[1]]
    order = [one.index for one in mixed(loaded).rank(QUESTIONS[0], texts)]
    assert order in ([1, 3, 0, 2, 4], [0, 2, 4, 1, 3])


def test_a_long_text_ranks_by_the_words_of_its_best_window(loaded: ClaraModel):
    clara = mixed(loaded)
    windows = clara.compress([LONG]).texts
    ranked = clara.rank(QUESTIONS[2], [LONG, "x"])
    best = next(one for one in ranked if one.index == 0)
    assert best.words == BM25([*windows, "x"]).shares(QUESTIONS[2])[best.window.number]


def test_latents_bring_their_texts_along_and_are_ranked_by_latents_without(loaded: ClaraModel):
    clara = mixed(loaded)
    latents = clara.compress([LONG, *TEXTS])
    assert latents.texts[-len(TEXTS) :] == tuple(TEXTS) and latents[[0]].texts == latents.texts[:1]
    given, texts = clara.rank(QUESTIONS[0], latents), clara.rank(QUESTIONS[0], [LONG, *TEXTS])
    assert [(one.index, one.words, one.by) for one in given] == [(one.index, one.words, one.by) for one in texts]
    bare = replace(latents, texts=None)
    assert clara.rank(QUESTIONS[0], bare) == Clara(loaded, ranking="latents").rank(QUESTIONS[0], latents)
    assert type(latents).stack([latents, bare]).texts is None
    assert type(latents).stack([latents, latents]).texts == latents.texts * 2


# -- the best windows as text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("expand", [0, 1, 2, 3, 9])
def test_the_best_windows_are_text_and_the_others_slots(loaded: ClaraModel, expand: int):
    answer = mixed(loaded, expand).answer(QUESTIONS[0], TEXTS, top_k=3, **SHORT)
    shown, tokens = min(expand, 3), loaded.tokens
    texts = [TEXTS[index] for index in answer.selected]
    lengths = [tokens.count(text) for text in texts]
    usage = answer.usage
    assert (answer.expanded, usage.slots) == (shown, (3 - shown) * loaded.config.memory_tokens)
    assert (usage.expanded_tokens, usage.text_tokens) == (sum(lengths[:shown]), sum(lengths))
    prompt = loaded.config.prompts.answer
    ids = tokens.prompt_ids(prompt, 3 - shown, QUESTIONS[0], text="\n\n".join(texts[:shown]))
    blocks = loaded.compress(texts).vectors[shown:]
    assert (answer.text, usage.prompt_tokens) == (loaded.generate_ids([ids], [blocks], **SHORT).texts[0], len(ids))


def test_answers_in_a_batch_one_by_one_streamed_and_from_latents_are_the_same(loaded: ClaraModel):
    clara = mixed(loaded, 2)
    asked = [*QUESTIONS, QUESTIONS[0]]
    rows = [TEXTS, [LONG, "x"], TEXTS[:1], list(reversed(TEXTS))]
    together = clara.answers(asked, rows, top_k=3, **SHORT)
    for question, row, found in zip(asked, rows, together, strict=True):
        with clara.stream(question, row, top_k=3, **SHORT) as stream:
            assert "".join(stream) == found.text
        alone = clara.answer(question, row, top_k=3, **SHORT)
        given = clara.answer(question, clara.compress(row), top_k=3, **SHORT)
        for other in (alone, given, stream.answer):
            assert other.confidence == pytest.approx(found.confidence, rel=1e-5)
            assert replace(other, timings=found.timings, confidence=found.confidence) == found


def test_of_documents_in_a_settled_order_the_first_are_text(loaded: ClaraModel):
    answer = mixed(loaded, 1).answer(QUESTIONS[0], TEXTS, top_k=2, rerank=False, **SHORT)
    assert answer.selected == [0, 1] and answer.usage.expanded_tokens == loaded.tokens.count(TEXTS[0])


def test_of_a_long_text_its_best_window_is_text(loaded: ClaraModel):
    answer = mixed(loaded, 1).answer(QUESTIONS[0], [LONG], top_k=2, **SHORT)
    best = answer.windows[0]
    assert answer.usage.expanded_tokens == loaded.tokens.count(LONG[best.start : best.end])
    cut = mixed(loaded, 1, long_documents="truncate").answer(QUESTIONS[0], [LONG], **SHORT)
    assert cut.usage.expanded_tokens == cut.usage.text_tokens > 0


# from one token up: a block has four slots and its <SEP>
FEW_WORDS = ["a", "is", "in 1962", "Tolvik", "Priya Nair, who is in it"]


@pytest.mark.parametrize("expand", [1, 2])
def test_a_window_that_is_shorter_as_text_is_read_as_text_wherever_it_stands(loaded: ClaraModel, expand: int):
    texts = [TEXTS[0], FEW_WORDS[1], TEXTS[1], FEW_WORDS[3]]
    tokens, prompt = loaded.tokens, loaded.config.prompts.answer
    answer = Clara(loaded, expand=expand).answer(QUESTIONS[0], texts, top_k=4, rerank=False, **SHORT)
    ids = tokens.prompt_ids(prompt, 1, QUESTIONS[0], text="\n\n".join([texts[0], texts[1], texts[3]]))
    found = loaded.generate_ids([ids], [loaded.compress(texts).vectors[[2]]], **SHORT)
    assert (answer.text, answer.usage.prompt_tokens) == (found.texts[0], len(ids))
    assert (answer.expanded, answer.usage.slots, answer.selected) == (3, loaded.config.memory_tokens, [0, 1, 2, 3])
    lengths = [tokens.count(text) for text in texts]
    assert (answer.usage.expanded_tokens, answer.usage.text_tokens) == (sum(lengths) - lengths[2], sum(lengths))


@pytest.mark.parametrize("expand", [0, 1, 2])
def test_short_windows_never_lengthen_a_prompt_and_without_expand_are_slots(loaded: ClaraModel, expand: int):
    clara = Clara(loaded, expand=expand)
    rows = [[TEXTS[0], one, two, TEXTS[1]] for one in FEW_WORDS for two in FEW_WORDS]
    answers = clara.answers([QUESTIONS[0]] * len(rows), rows, 4, rerank=False, max_new_tokens=1)
    for row, answer in zip(rows, answers, strict=True):
        text, slots = "\n\n".join(row[:expand]), 4 - expand
        before = loaded.tokens.prompt_ids(loaded.config.prompts.answer, slots, QUESTIONS[0], text=text)
        assert answer.usage.prompt_tokens <= len(before)
        assert expand or (answer.expanded == 0 and answer.usage.prompt_tokens == len(before))
    assert not expand or len({answer.expanded for answer in answers}) > 1


def test_short_windows_in_a_batch_one_by_one_streamed_and_from_a_store_are_the_same(loaded: ClaraModel, tmp_path: Path):
    rows = [[*TEXTS[:1], *FEW_WORDS], FEW_WORDS, [LONG, "in 1962"]]
    with Clara(loaded, expand=1, store=tmp_path / "store") as stored:
        clara = Clara(loaded, expand=1)
        together = clara.answers(QUESTIONS, rows, top_k=5, **SHORT)
        assert [one.expanded > 1 for one in together] == [True, True, True]
        for question, row, found in zip(QUESTIONS, rows, together, strict=True):
            with clara.stream(question, row, top_k=5, **SHORT) as stream:
                assert "".join(stream) == found.text
            kept = [stored.answer(question, row, top_k=5, **SHORT) for _ in range(2)]
            given = clara.answer(question, clara.compress(row), top_k=5, **SHORT)
            for other in (stream.answer, *kept, given):
                assert (other.text, other.usage, other.expanded) == (found.text, found.usage, found.expanded)


def test_latents_without_texts_are_read_as_latents(loaded: ClaraModel):
    latents = replace(Clara(loaded).compress(TEXTS), texts=None)
    answer = mixed(loaded, 2).answer(QUESTIONS[0], latents, top_k=2, **SHORT)
    assert (answer.expanded, answer.unsupported, answer.quotes) == (0, None, [])
    assert answer.text == Clara(loaded).answer(QUESTIONS[0], TEXTS, top_k=2, **SHORT).text


def test_text_that_has_no_room_is_read_as_latents(base_folder: Path):
    model = build_model(base_folder)
    length = Clara(model, expand=1).answer(QUESTIONS[0], TEXTS, top_k=2, **SHORT).usage.prompt_tokens
    model.config = replace(model.config, max_prompt_length=length)
    assert Clara(model, expand=2).answer(QUESTIONS[0], TEXTS, top_k=2, **SHORT).expanded == 1
    model.config = replace(model.config, max_prompt_length=length - 1)
    assert Clara(model, expand=2).answer(QUESTIONS[0], TEXTS, top_k=2, **SHORT).expanded == 0


def test_the_checkpoint_says_how_many(base_folder: Path):
    assert Clara(build_model(base_folder, expand=2)).answer(QUESTIONS[0], TEXTS, top_k=3, **SHORT).expanded == 2
    assert Clara(build_model(base_folder, expand=2), expand=0).answer(QUESTIONS[0], TEXTS, **SHORT).expanded == 0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"expand": -1}, ValueError, "expand must be at least 0, got -1"),
        ({"expand": 1.0}, TypeError, "expand must be a whole number, got 1.0"),
        ({"ranking": "words"}, ValueError, "ranking must be latents or hybrid, got 'words'"),
    ],
)
def test_what_makes_no_sense_is_refused(loaded: ClaraModel, options: dict, kind: type, message: str):
    with pytest.raises(kind, match=message):
        Clara(loaded, **options)


@pytest.mark.parametrize(
    ("name", "value"), [("word_weight", -1.0), ("word_weight", "1"), ("expand", -1), ("expand", True)]
)
def test_a_configuration_is_checked(base_folder: Path, name: str, value: object):
    with pytest.raises(ClaraError, match=f"{name} must be a"):
        build_model(base_folder, **{name: value})


# -- what an answer says about itself ---------------------------------------------------------------------------------


def test_confidence_is_the_mean_likelihood_of_the_tokens(loaded: ClaraModel):
    answer = Clara(loaded).answer(QUESTIONS[0], TEXTS, top_k=2, **SHORT)
    chosen = [TEXTS[index] for index in answer.selected]
    ids = loaded.tokens.prompt_ids(loaded.config.prompts.answer, 2, QUESTIONS[0])
    latents, logs = loaded.compress(chosen).vectors, []
    made = loaded.generate_ids([ids], [latents], **SHORT).ids[0]
    for place, token in enumerate(made.tolist()):
        embeds = loaded.fill_slots(torch.tensor([[*ids, *made[:place].tolist()]]), latents)
        with torch.no_grad(), loaded.roles.acting_as("generator"):
            logs.append(loaded.base(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)[token].item())
    assert answer.confidence == pytest.approx(math.exp(sum(logs) / len(logs)), rel=1e-4)


def test_confidence_with_stop_strings_sampling_and_beams(loaded: ClaraModel):
    clara = Clara(loaded)
    whole = clara.answer(QUESTIONS[0], TEXTS, max_new_tokens=8)
    assert 0 < whole.confidence <= 1
    assert 0 < clara.answer(QUESTIONS[0], TEXTS, stop=whole.text[1:3], max_new_tokens=8).confidence <= 1
    assert 0 < clara.answer(QUESTIONS[0], TEXTS, temperature=2.0, seed=1, max_new_tokens=8).confidence <= 1
    assert 0 < clara.plain("Hello", max_new_tokens=8).confidence <= 1
    assert clara.answer(QUESTIONS[0], TEXTS, num_beams=2, max_new_tokens=8).confidence is None


def test_an_answer_names_where_its_words_stand(base_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The random model cannot quote, so what it wrote is put in its place."""
    write, long = pipeline.write, f"{TEXTS[0]} " * 9 + "\n\nThe mill cost 1,450 euros in Osmere."

    def said(*args, **options):
        return [replace(one, text="1450 euros, said Nobody 77") for one in write(*args, **options)]

    monkeypatch.setattr(pipeline, "write", said)
    answer = mixed(build_model(base_folder, word_weight=100.0)).answer(
        "What did the mill cost?", [TEXTS[1], long], top_k=1, **SHORT
    )
    (quote,) = answer.quotes
    assert answer.selected == [1] and quote.document == 1
    assert long[quote.document_start : quote.document_end] == "1,450 euros"
    assert answer.unsupported == ["Nobody", "77"]

"""Answers from text where candidates have no latents yet (``cold="text"``): which passages, under which prompt.

The base model alone reads the best k under the checkpoint's own prompt, text in the slots' place; best by the words
that they share with the question (`search.words`), or in the order given where that is settled. An answer is from text
or from latents, never from both. Fewer missing texts than are read are compressed instead, which costs less than
reading. Leaves out compressing later (`inference.background`). What it costs in accuracy: docs/speed.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clara_model.inference import pipeline
from clara_model.inference.engine import Call
from clara_model.inference.pipeline import Candidates, Encoded
from clara_model.inference.results import Ranked
from clara_model.search.words import word_scores
from clara_model.validation import Generation
from clara_model.windows import Window

_NO_BLOCKS = Encoded(torch.empty(0), ())


@dataclass(frozen=True)
class Choice:
    """What to read of one question's candidates: windows by number, as the pipeline selects them."""

    row: Candidates
    """The windows, without blocks."""
    texts: list[str]
    """Of all windows."""
    ranking: list[Ranked]
    """By words; empty where the order is settled."""
    selected: list[int]


@dataclass(frozen=True)
class TextPrompt:
    """A question's prompt with text in the slots' place."""

    choice: Choice
    selected: list[int]
    """Those that fit."""
    ids: list[int]
    text_tokens: int


def rank(question: str, texts: Sequence[str]) -> list[Ranked]:
    """Texts by the words that they share with a question, best first; equal scores in the order given."""
    scores = word_scores(question, texts)
    return sorted((Ranked(i, score, by="words") for i, score in enumerate(scores)), key=lambda one: -one.score)


def choose(question: str, texts: list[str], windows: Sequence[Window] | None, k: int, *, rerank: bool) -> Choice:
    """What to read of candidates: the best ``k`` windows, or of settled documents the best of each."""
    row = Candidates(_NO_BLOCKS, range(len(texts)), windows)
    ranking = rank(question, texts) if rerank or windows is not None else []
    if rerank:
        return Choice(row, texts, ranking, pipeline.best_first(ranking, k))
    return Choice(row, texts, [], pipeline.in_given_order(row, ranking, k))


def prompt(call: Call, question: str, choice: Choice, how: Generation) -> TextPrompt | None:
    """The prompt with as many of the chosen texts as the base model reads, the last left out first; None if none."""
    tokens, wording = call.model.tokens, call.model.config.prompts.answer
    reads = getattr(call.model.base.config, "max_position_embeddings", None) or 2**62
    for count in range(len(choice.selected), 0, -1):
        kept = choice.selected[:count]
        texts = [call.read_part(choice.texts[index]) for index in kept]
        ids = tokens.text_prompt_ids(wording, "\n\n".join(texts), question)
        if len(ids) + how.max_new_tokens <= reads:
            return TextPrompt(choice, kept, ids, sum(map(tokens.count, texts)))
    return None

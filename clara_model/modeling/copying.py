"""An answer that is a stretch of what was read: which stretches there are, and which of them the generator would write.

A stretch runs from word to word; a number is one word, with its separators and its sign. The prompt is read once, then
the stretches from the likeliest beginnings behind it in one batch, so that every end of theirs is scored. The best is
that with the highest mean likelihood of its tokens, the end token among them. Leaves out scripts that put no spaces
between words: there what stands between two marks is a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import regex
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

if TYPE_CHECKING:
    from clara_model.modeling.model import RoleModel
    from clara_model.modeling.tokens import Tokens

_WORD = regex.compile(r"[$€£¥]?(?:\w|(?<=\d)[.,:](?=\d))+[%°]?")
WORDS = 12
"""Words of the longest stretch."""
BEGINNINGS = 8
"""Of how many places to begin at the stretches are scored."""


@dataclass(frozen=True)
class Stretch:
    """Characters ``start`` to ``end`` of a passage."""

    passage: int
    start: int
    end: int


@dataclass(frozen=True)
class Copied:
    """The stretch that the generator would write, or None where it would write that nothing answers."""

    stretch: Stretch | None
    text: str
    tokens: int
    """With the end token."""
    confidence: float
    """As `Generated.confidences`."""


def stretches(passages: Sequence[str]) -> Iterator[list[Stretch]]:
    """Of each word of each passage all stretches that begin with it, the shortest first.

    One may end behind a word, or behind the full stop that follows it, which may be of an abbreviation.
    """
    for number, text in enumerate(passages):
        words = [(found.start(), found.end()) for found in _WORD.finditer(text)]
        for first, (start, _) in enumerate(words):
            ends = [end for _, end in words[first : first + WORDS]]
            stops = {end + 1 for end in ends if text[end : end + 1] == "."}
            yield [Stretch(number, start, end) for end in sorted({*ends, *stops})]


@torch.no_grad()
def copied(
    model: RoleModel,
    prompt: Sequence[int],
    blocks: Tensor | None,
    passages: Sequence[str],
    prior: float | None = None,
    *,
    most: int,
    role: str = "generator",
) -> Copied:
    """Answer a prompt by a stretch of what it reads.

    Args:
        model: in evaluation mode.
        prompt: ids with slots.
        blocks: its latents ``[k, M, D]`` in slot order; None for a prompt without slots.
        passages: the texts of what it reads.
        prior: as one of ``priors`` of `RoleModel.generate_ids`.
        most: tokens of the answer, its end token included.
        role: who writes, as for `RoleModel.generate_ids`.

    Returns:
        the best stretch; an empty one, with confidence 0, where no word stands in the passages or fits into ``most``.
    """
    model.check_positions([prompt])
    prompts, tokens = model.config.prompts, model.tokens
    with model.roles.acting_as(role), model._merged(role == "generator") as given:
        cache = given["past_key_values"] if given else DynamicCache(config=model.base.config)
        embeds = model.fill_slots(torch.tensor([list(prompt)]), [] if blocks is None else [blocks])
        out = model.base(inputs_embeds=embeds, past_key_values=cache, use_cache=True, logits_to_keep=1)
        first = out.logits[0, -1].float().log_softmax(-1).tolist()
        offered = _likeliest(tokens, passages, first, most)
        none, certain = tokens.no_answer_id if role == "generator" else None, None
        if not offered and none is None:
            return Copied(None, "", 0, 0.0)
        if none is not None:
            best = max((first[ids[0]] for ids in offered if ids[0] != none), default=-math.inf)
            certainty = prompts.certainty
            certain = certainty.of(certainty.prior(None, None) if prior is None else prior, best - first[none])
            if certain < certainty.refuse_below:
                count = len(tokens.answer_ids(prompts.no_answer)) + 1
                return Copied(None, prompts.no_answer, count, certain)
        paths = sorted(offered)
        rows = [path for path, after in pairwise([*paths, ()]) if after[: len(path)] != path]
        cache.batch_repeat_interleave(len(rows))
        width = max(map(len, rows))
        ids_RT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=embeds.device)
        logs_RTV = model.base(input_ids=ids_RT, past_key_values=cache, use_cache=True).logits.float().log_softmax(-1)
    ends = torch.tensor(model.base.generation_config.eos_token_id, device=embeds.device).reshape(-1)
    end_RT = logs_RTV[..., ends].logsumexp(-1).tolist()
    next_RT = logs_RTV[:, :-1].gather(-1, ids_RT[:, 1:, None])[..., 0].tolist()
    means: dict[tuple[int, ...], float] = {}
    for row, end, after in zip(rows, end_RT, next_RT, strict=True):
        for count in range(1, len(row) + 1):
            log = first[row[0]] + sum(after[: count - 1]) + end[count - 1]
            means[row[:count]] = log / (count + 1)
    chosen = max(offered, key=lambda ids: means[ids])
    stretch, confidence = offered[chosen], math.exp(means[chosen]) if certain is None else certain
    text = passages[stretch.passage][stretch.start : stretch.end]
    return Copied(stretch, text, len(chosen) + 1, confidence)


def _likeliest(
    tokens: Tokens, passages: Sequence[str], first: Sequence[float], most: int
) -> dict[tuple[int, ...], Stretch]:
    """The ids of the stretches from the likeliest beginnings; what stands several times is the first of these."""

    def ids_of(stretch: Stretch) -> tuple[int, ...]:
        return tuple(tokens.answer_ids(passages[stretch.passage][stretch.start : stretch.end]))

    some = list(stretches(passages))
    likely = [first[ids_of(one[min(3, len(one) - 1)])[0]] for one in some]
    offered: dict[tuple[int, ...], Stretch] = {}
    beginnings = 0
    for number in sorted(range(len(some)), key=lambda number: -likely[number]):
        new = {ids: one for one in some[number] if len(ids := ids_of(one)) < most and ids not in offered}
        offered |= new
        beginnings += bool(new)
        if beginnings == BEGINNINGS:
            break
    return offered

"""How much each token of the vocabulary weighs in a residual with anchors, counted in the training rows.

``min(-log p, RAREST) + 6 log(answered / mean) + 2 log(asked / mean)``, divided by `UNIT`: ``p`` the token's share of
the text, ``answered`` the share of its places that are part of an answer, ``asked`` the share whose text's questions
hold it too. Digits and names weigh much, full stops and articles little. The factors are measured (docs/experiments).

Shapes: ``V`` vocabulary without added tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from clara_model.checkpoint.base_model import load_base
from clara_model.checkpoint.options import LoadOptions
from clara_model.inference.published import ClaraModel
from clara_model.modeling.tokens import Tokens
from trainers.data.row import Row

RAREST, ANSWERED, ASKED, UNIT = 10.5, 6.0, 2.0, 9.0
PRIOR = 20.0
"""Places of an average token that every token is given before anything is counted."""


@torch.no_grad()
def weigh_residuals(model: ClaraModel, rows: Iterable[Row]) -> None:
    """Give every residual the weights of these rows, as bfloat16 keeps them, so that the cut survives saving."""
    weights = token_weights(model.tokens, rows, model.tokens.added_ids[0]).bfloat16()
    for name, parameter in model.residuals.named(list(model.residuals.of)).items():
        if name.endswith(".weight"):
            parameter.copy_(weights)


def token_weights(tokens: Tokens, rows: Iterable[Row], vocabulary: int) -> Tensor:
    """The weights ``[V]``, float32; an answer counts where it first stands in a document, in any case."""
    seen, answered, asked = ([0] * vocabulary for _ in range(3))
    for row in rows:
        questions = set(tokens.plain_ids(" " + " ".join(row.questions)))
        for text in row.documents:
            answers = [answer.lower() for answer in row.answers] if row.questions else []
            spans = [(at, at + len(one)) for one in answers if (at := text.lower().find(one)) >= 0]
            for token, start, end in tokens.placed_ids(text):
                seen[token] += 1
                answered[token] += any(start < last and end > first for first, last in spans)
                asked[token] += token in questions
    seen_V, answered_V, asked_V = (torch.tensor(counts, dtype=torch.float32) for counts in (seen, answered, asked))
    rare = -((seen_V + 0.5) / (seen_V + 0.5).sum()).log()
    weights = rare.clamp_max(RAREST) + ANSWERED * _odds(answered_V, seen_V) + ASKED * _odds(asked_V, seen_V)
    return weights / UNIT


def _odds(count_V: Tensor, seen_V: Tensor) -> Tensor:
    """Logarithm of each token's share over the mean share; nothing at all was counted: 0."""
    mean = count_V.sum() / seen_V.sum().clamp_min(1)
    if not mean:
        return torch.zeros_like(count_V)
    return ((count_V + PRIOR * mean) / (seen_V + PRIOR) / mean).log()


@torch.no_grad()
def center_residuals(model: ClaraModel, texts: Iterable[str]) -> None:
    """Set every residual's centre to the mean input embedding of running text."""
    weight = cast(Tensor, model.base.get_input_embeddings().weight)
    ids = torch.tensor([i for text in texts for i in model.tokens.plain_ids(text)], device=weight.device)
    counts = torch.bincount(ids, minlength=len(weight)).to(torch.float32)
    center_D = (counts / counts.sum()) @ weight.float()
    for name, parameter in model.residuals.named(list(model.residuals.of)).items():
        if name.endswith(".center"):
            parameter.copy_(center_D)


@torch.no_grad()
def at_rate(model: ClaraModel, rate: int, options: LoadOptions) -> ClaraModel:
    """The checkpoint at another compression rate: its adapters and residual, and memory rows of the nearest tokens.
    The model stays as it is; the base is loaded anew, whose vocabulary has other added tokens at another rate.
    """
    config = replace(model.config, compression_rate=rate)
    base, tokenizer = load_base(
        config.base_model, replace(options, revision=config.base_revision), sha256=config.base_sha256
    )
    new = ClaraModel(base, tokenizer, config, to_be_loaded=True).to_float(torch.float32)
    state = model.state()
    nearest = torch.arange(config.memory_tokens) * model.config.memory_tokens // config.memory_tokens
    state.config = config
    state.memory = {role: rows[nearest] for role, rows in state.memory.items()}
    state.embeddings = {name: torch.cat([rows[nearest], rows[-3:]]) for name, rows in state.embeddings.items()}
    new.load_weights(state)
    return new

"""How much each token of the vocabulary weighs in a residual with anchors, counted in the training rows.

``min(-log p, RAREST) + 6 log(answered / mean) + 2 log(asked / mean)``, divided by `UNIT`: ``p`` the token's share of
the text, ``answered`` the share of its places that are part of an answer, ``asked`` the share whose text's questions
hold it too. Digits and names weigh much, full stops and articles little. The factors are measured (docs/results.md).

Shapes: ``V`` vocabulary without added tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from clara_model.inference.published import ClaraModel
from clara_model.modeling.tokens import Tokens
from trainers.data.rows import Row

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
    """The weights ``[V]``, float32.

    Args:
        tokens: of the model.
        rows: whose documents, questions and answers are counted; an answer counts where it first stands in a document.
        vocabulary: ``V``.
    """
    seen, answered, asked = ([0] * vocabulary for _ in range(3))
    for row in rows:
        questions = set(tokens.plain_ids(" " + " ".join(row.questions)))
        for text in row.documents:
            spans = [_span(text, answer) for answer in row.answers] if row.questions else []
            for token, start, end in tokens.placed_ids(text):
                seen[token] += 1
                answered[token] += any(start < last and end > first for first, last in spans)
                asked[token] += token in questions
    seen_V, answered_V, asked_V = (torch.tensor(counts, dtype=torch.float32) for counts in (seen, answered, asked))
    rare = -((seen_V + 0.5) / (seen_V + 0.5).sum()).log()
    weights = rare.clamp_max(RAREST) + ANSWERED * _odds(answered_V, seen_V) + ASKED * _odds(asked_V, seen_V)
    return weights / UNIT


def _span(text: str, answer: str) -> tuple[int, int]:
    """Where an answer first stands in a text, in any case; an empty stretch where it does not."""
    start = text.lower().find(answer.lower())
    return (start, start + len(answer)) if start >= 0 else (0, 0)


def _odds(count_V: Tensor, seen_V: Tensor) -> Tensor:
    """Logarithm of each token's share over the mean share; nothing at all was counted: 0."""
    mean = count_V.sum() / seen_V.sum().clamp_min(1)
    if not mean:
        return torch.zeros_like(count_V)
    return ((count_V + PRIOR * mean) / (seen_V + PRIOR) / mean).log()

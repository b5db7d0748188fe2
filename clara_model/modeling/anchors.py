"""Latents that are a text's weightiest tokens, each together with what stands before it.

Every token of the vocabulary has a weight, counted in the training data (`trainers.token_weights`): how rare it is, and
how often it is part of an answer or asked for. A text's ``M`` heaviest tokens are its anchors; a token that follows the
same one as before in the text weighs `REPEATED` less. A memory token's latent is ``anchor + sum_i share_i P_d (e_i -
center) + gate * state`` over the tokens between the anchor before and its own, ``d`` the distance to the anchor,
``share`` the token's weight between `LEAST` and 1: the anchor's embedding, which the base model reads as text, with
faint copies of the tokens that were left out. A text with fewer tokens than memory tokens is its own embeddings, then
centres. A question is one sum, ``center + P sum_i share_i (e_i - center) / sqrt(n)``, repeated at every memory token;
or, where the checkpoint ranks by late interaction, a slot for each of its tokens: the direction of ``P (e_i - center)``
without what lies along the centre, so that an empty slot of a document is like no token, as long as the token's weight.
What it bought: docs/results.md.

Shapes: ``N`` texts, ``T`` ids, ``M`` memory tokens, ``D`` hidden size, ``V`` vocabulary without added tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 0.1
"""Share of a token's embedding, at least, that enters its memory token's latent."""
FAINTEST = 0.01
"""Weight of a question's token, at least, in late interaction."""
REPEATED = 0.45
"""What the second token of a pair loses of its weight where the pair came before in the text."""
DISTANCES = 3
"""Distances to the anchor that are told apart; farther counts as this far. Number 0: behind the last anchor."""


class Cut(NamedTuple):
    """Where the tokens of padded texts go; all ``[N, T]``, what stands at padding means nothing."""

    anchor: Tensor
    """True at the tokens that are a memory token's own."""
    block: Tensor
    """Number of the memory token."""
    distance: Tensor
    """Tokens to the anchor, at most `DISTANCES`; 0 at the anchor itself and behind the last one."""


class AnchorResidual(nn.Module):
    """The compressor's centre ``[D]``, projections ``[DISTANCES + 1, D, D]``, gate ``[D]``, token weights ``[V]``."""

    def __init__(self, center_D: Tensor, memory_tokens: int, vocabulary: int) -> None:
        """Half identities as projections, a closed gate, and the same weight for every token.

        Args:
            center_D: the mean input embedding of running text.
            memory_tokens: ``M``.
            vocabulary: ``V``.
        """
        super().__init__()
        self.memory_tokens = memory_tokens
        self.center = nn.Parameter(center_D.detach().clone())
        eye = torch.eye(len(center_D), dtype=center_D.dtype, device=center_D.device)
        self.projection = nn.Parameter(0.5 * eye.repeat(DISTANCES + 1, 1, 1))
        self.gate = nn.Parameter(torch.zeros_like(self.center))
        self.weight = nn.Parameter(torch.ones(vocabulary, dtype=center_D.dtype, device=center_D.device))

    def forward(self, ids_NT: Tensor, embeds_NTD: Tensor, text_NT: Tensor, states_NMD: Tensor) -> Tensor:
        """The latents.

        Args:
            ids_NT: encoder ids without the memory tokens.
            embeds_NTD: their input embeddings.
            text_NT: True at the text's own tokens, which follow each other.
            states_NMD: last hidden states at the memory tokens.

        Returns:
            ``[N, M, D]``.
        """
        weights_NT = self.weight[ids_NT.clamp_max(len(self.weight) - 1)]
        cut = cut_at_anchors(ids_NT, weights_NT.detach().float(), text_NT, self.memory_tokens)
        rows, at = text_NT.nonzero(as_tuple=True)
        anchor, distance = cut.anchor[rows, at], cut.distance[rows, at]
        shifted = embeds_NTD[rows, at] - self.center
        share = weights_NT[rows, at].clamp(LEAST, 1.0)[:, None]
        for number, projection in enumerate(self.projection):
            here = ((distance == number) & ~anchor).nonzero()[:, 0]
            shifted = shifted.index_copy(0, here, (shifted[here] * share[here]) @ projection.T)
        total = states_NMD.new_zeros(len(text_NT) * self.memory_tokens, shifted.shape[-1])
        total = total.index_add(0, rows * self.memory_tokens + cut.block[rows, at], shifted.to(total.dtype))
        return self.center + total.view_as(states_NMD) + self.gate * states_NMD


class WeighedQuestion(nn.Module):
    """The query reasoner's centre ``[D]``, projection ``[1, D, D]``, gate ``[D]`` and token weights ``[V]``."""

    def __init__(self, center_D: Tensor, vocabulary: int) -> None:
        """The identity as projection, a closed gate, and the same weight for every token."""
        super().__init__()
        self.center = nn.Parameter(center_D.detach().clone())
        self.projection = nn.Parameter(torch.eye(len(center_D), dtype=center_D.dtype, device=center_D.device)[None])
        self.gate = nn.Parameter(torch.zeros_like(self.center))
        self.weight = nn.Parameter(torch.ones(vocabulary, dtype=center_D.dtype, device=center_D.device))

    def forward(self, ids_NT: Tensor, embeds_NTD: Tensor, text_NT: Tensor, states_NMD: Tensor) -> Tensor:
        """The latents ``[N, M, D]``; arguments as of `AnchorResidual.forward`."""
        share_NT = self.weight[ids_NT.clamp_max(len(self.weight) - 1)].clamp(LEAST, 1.0) * text_NT
        sums = (share_NT[..., None] * (embeds_NTD - self.center)).sum(dim=1, keepdim=True)
        count = text_NT.sum(dim=1).clamp_min(1).to(sums.dtype)[:, None, None]
        sums = self.center + (sums / count.sqrt()) @ self.projection[0].T
        return sums.to(states_NMD.dtype).expand_as(states_NMD) + self.gate * states_NMD


class QuestionTokens(WeighedQuestion):
    """The query reasoner's latents where each token has a slot of its own; the heaviest where there are more tokens."""

    def forward(self, ids_NT: Tensor, embeds_NTD: Tensor, text_NT: Tensor, states_NMD: Tensor) -> Tensor:
        """The latents ``[N, M, D]``, tokens in their order and zeros behind them; arguments as of `AnchorResidual`."""
        weights_NT = self.weight[ids_NT.clamp_max(len(self.weight) - 1)].clamp_min(FAINTEST)
        slots = states_NMD.shape[1]
        order = weights_NT.detach().float().masked_fill(~text_NT, -torch.inf).sort(dim=1, descending=True, stable=True)
        kept = torch.zeros_like(text_NT).scatter(1, order.indices[:, :slots], True) & text_NT
        rows, at = kept.nonzero(as_tuple=True)
        turned = (embeds_NTD[rows, at] - self.center) @ self.projection[0].T
        middle = F.normalize(self.center, dim=0)
        turned = turned - (turned @ middle)[:, None] * middle
        found = F.normalize(turned, dim=-1) * weights_NT[rows, at][:, None]
        places = rows * slots + kept.cumsum(dim=1)[rows, at] - 1
        total = states_NMD.new_zeros(len(text_NT) * slots, found.shape[-1]).index_add(
            0, places, found.to(states_NMD.dtype)
        )
        return total.view_as(states_NMD) + self.gate * states_NMD


def cut_at_anchors(ids_NT: Tensor, weights_NT: Tensor, text_NT: Tensor, count: int) -> Cut:
    """The heaviest tokens of each text, and for every token the one it goes to: the next of them, or the last.

    Args:
        ids_NT: token ids.
        weights_NT: of the tokens, float32; of equal ones the first in the text is the heavier.
        text_NT: True at the text's own tokens, which follow each other.
        count: anchors; a text with no more tokens has all of them as anchors.
    """
    places = torch.arange(ids_NT.shape[1], device=ids_NT.device).expand_as(ids_NT)
    weights_NT = weights_NT - REPEATED * _repeated(ids_NT, text_NT)
    order = weights_NT.masked_fill(~text_NT, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    anchor = torch.zeros_like(text_NT).scatter(1, order[:, :count], True) & text_NT
    passed = (anchor.cumsum(dim=1) - anchor.long()).clamp_min(0)
    block = passed.minimum((anchor.sum(dim=1, keepdim=True) - 1).clamp_min(0))
    far = ids_NT.shape[1] + DISTANCES
    following = places.masked_fill(~anchor, far).flip(1).cummin(dim=1).values.flip(1)
    distance = (following - places).clamp_max(DISTANCES).masked_fill(following == far, 0)
    return Cut(anchor, block, distance)


def _repeated(ids_NT: Tensor, text_NT: Tensor) -> Tensor:
    """1.0 where a token and the one before it stood together earlier in the text ``[N, T]``."""
    before = torch.cat([torch.full_like(ids_NT[:, :1], -1), ids_NT[:, :-1]], dim=1)
    starts = text_NT & ~torch.cat([torch.zeros_like(text_NT[:, :1]), text_NT[:, :-1]], dim=1)
    before = before.masked_fill(starts, -1)
    same = (ids_NT[:, :, None] == ids_NT[:, None]) & (before[:, :, None] == before[:, None])
    return (same & text_NT[:, None]).tril(-1).any(dim=2).float()

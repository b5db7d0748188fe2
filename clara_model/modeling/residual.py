"""Latents that begin as sums of the text's own input embeddings, to which the memory tokens' states are added.

A text's tokens are cut into ``M`` blocks in order. A memory token's latent is ``center + sum_j P_j (e_j - center) /
sqrt(n) + gate * state`` over the ``n`` tokens of its block: the centre (the mean embedding of running text) is half of
an embedding's length and would grow with every token that is summed, and dividing by the root keeps what is left as
long as one token's. ``P_j`` tells a block's first token from its second and starts as the identity, ``gate`` starts at
0: at one token a block, an untrained latent *is* the token's embedding, which the base model reads as text. A question
is one block, repeated at every memory token. Why it helps: docs/results.md. A bare ``ClaraModel`` has none.

Shapes: ``N`` texts, ``T`` ids, ``M`` memory tokens, ``D`` hidden size, ``J`` places in a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clara_model.checkpoint.config import ClaraConfig
from clara_model.errors import ClaraError

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


class BlockResidual(nn.Module):
    """One role's centre ``[D]``, projections ``[J, D, D]`` and gate ``[D]``."""

    def __init__(self, center_D: Tensor, blocks: int, projections: int, first: int) -> None:
        """Identity projections and a closed gate.

        Args:
            center_D: the mean input embedding of running text.
            blocks: that a text is cut into: ``M``, or 1 for a question.
            projections: ``J``.
            first: place in a block of the first token that is projected; those after the last are projected like it.
        """
        super().__init__()
        self.blocks, self.first = blocks, first
        self.center = nn.Parameter(center_D.detach().clone())
        eye = torch.eye(len(center_D), dtype=center_D.dtype, device=center_D.device)
        self.projection = nn.Parameter(eye.repeat(projections, 1, 1))
        self.gate = nn.Parameter(torch.zeros_like(self.center))

    def forward(self, ids_NT: Tensor, embeds_NTD: Tensor, text_NT: Tensor, states_NMD: Tensor) -> Tensor:
        """The latents.

        Args:
            ids_NT: encoder ids without the memory tokens, which are not looked at here.
            embeds_NTD: their input embeddings.
            text_NT: True at the text's own tokens.
            states_NMD: last hidden states at the memory tokens.

        Returns:
            ``[N, M, D]``; a text without tokens has the centre in every block.
        """
        rows, at = text_NT.nonzero(as_tuple=True)
        length, index = text_NT.sum(dim=1)[rows], text_NT.cumsum(dim=1)[rows, at] - 1
        block, place = blocks(length, index, self.blocks)
        shifted = embeds_NTD[rows, at] - self.center
        last = self.first + len(self.projection) - 1
        for number, projection in enumerate(self.projection, start=self.first):
            here = (place.clamp_max(last) == number).nonzero()[:, 0]
            shifted = shifted.index_copy(0, here, shifted[here] @ projection.T)
        target = rows * self.blocks + block
        total = states_NMD.new_zeros(len(text_NT) * self.blocks, shifted.shape[-1])
        total = total.index_add(0, target, shifted.to(total.dtype))
        count = torch.zeros(len(total), device=total.device).index_add(0, target, torch.ones_like(target).float())
        scaled = total / count.clamp_min(1).sqrt()[:, None].to(total.dtype)
        sums = self.center + scaled.view(len(text_NT), self.blocks, -1)
        return sums.expand_as(states_NMD) + self.gate * states_NMD


def blocks(length: Tensor, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Block number of a text's token, and its place in that block.

    Args:
        length: tokens of the text each token is in.
        index: the token's number in its text, from 0.
        count: blocks of a text; a shorter text leaves blocks empty.
    """
    block = index * count // length
    return block, index - (block * length + count - 1) // count


def spread_positions(mask_NT: Tensor, memory_tokens: int) -> Tensor:
    """Position ids ``[N, T]`` with the memory tokens' spread evenly over the text before them (arXiv 2409.14364)."""
    text = mask_NT[:, :-memory_tokens].long()
    counted = (text.cumsum(dim=1) - 1).clamp_min(0)
    middles = (2 * torch.arange(memory_tokens, device=text.device) + 1) * text.sum(dim=1, keepdim=True)
    return torch.cat([counted, middles // (2 * memory_tokens)], dim=1)


class Residuals(nn.Module):
    """The residuals of the encoder roles that have one; empty where the checkpoint has none."""

    def __init__(self) -> None:
        """None yet."""
        super().__init__()
        self.of = nn.ModuleDict()

    def add(self, role: str, config: ClaraConfig, center_D: Tensor, vocabulary: int) -> None:
        """Give a role the residual that the config names; a question is one block unless it is ranked by its tokens.

        Args:
            role: ``compressor`` or ``query_reasoner``.
            config: names the kind and the sizes; ``residual`` is not ``none``.
            center_D: the residual's centre.
            vocabulary: tokens of the base model without added ones.
        """
        encodes = role == "compressor"
        if config.residual == "anchors":
            question = QuestionTokens if config.ranking == "late" else WeighedQuestion
            self.of[role] = (
                AnchorResidual(center_D, config.memory_tokens, vocabulary) if encodes
                else question(center_D, vocabulary)
            )  # fmt: skip
        elif encodes:
            places = max(config.compression_rate - 1, 1)
            self.of[role] = BlockResidual(center_D, config.memory_tokens, projections=places, first=1)
        else:
            self.of[role] = BlockResidual(center_D, blocks=1, projections=1, first=0)

    def start_from(self, source: str, role: str, config: ClaraConfig, vocabulary: int) -> None:
        """Give the query reasoner a residual with what ``source``'s has besides projections, where it has one."""
        if source not in self.of:
            return
        kept = {name: p for name, p in self.of[source].named_parameters() if name != "projection"}
        self.add(role, config, kept["center"], vocabulary)
        self.of[role].load_state_dict(kept, strict=False)
        self.of[role].requires_grad_(False)

    def at_rest(self, role: str) -> bool:
        """Whether a role's latents are its residual alone: there is one, and its gate lets no state through."""
        return role in self.of and not cast(nn.Parameter, self.of[role].gate).any()

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Copy a checkpoint's tensors in.

        Raises:
            ClaraError: one is missing, left over or of another shape.
        """
        own = self.named(list(self.of))
        wrong = sorted(set(own) ^ set(tensors)) or [k for k, p in own.items() if p.shape != tensors[k].shape]
        if wrong:
            raise ClaraError(f"{wrong[0]!r} in {source} is missing, or not what its config.json asks for")
        for name, parameter in own.items():
            parameter.copy_(tensors[name])

    def named(self, roles: Sequence[str]) -> dict[str, nn.Parameter]:
        """Parameters of some roles as the adapters file names them, e.g. ``residual.compressor.gate``."""
        return {
            f"residual.{role}.{part}": parameter
            for role in roles
            if role in self.of
            for part, parameter in self.of[role].named_parameters()
        }

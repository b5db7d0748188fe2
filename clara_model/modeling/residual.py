"""Latents that begin as sums of the text's own input embeddings, to which the memory tokens' states are added.

The heaviest tokens of a text are *anchors*, one for each memory token. A memory token's latent is ``center + (e -
center) + sum w P (e' - center) + gate * state``: its anchor ``e``, and the tokens ``e'`` before it that are no anchors,
each by its weight ``w`` and by the projection ``P`` of its distance. The centre is the mean embedding of running text,
``P`` starts as half the identity, ``gate`` at 0: where every token is an anchor, an untrained latent *is* the token's
embedding, which the base model reads as text. A question is one sum, repeated at every memory token, or has a slot for
each of its tokens (late interaction). Why it helps: docs/experiments. A bare ``ClaraModel`` has none.

Shapes: ``N`` texts, ``T`` ids, ``M`` memory tokens, ``D`` hidden size, ``V`` vocabulary without added tokens.
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


class Residual(nn.Module):
    """A role's centre ``[D]``, projections ``[J, D, D]``, gate ``[D]``, closed at first, and token weights ``[V]``."""

    def __init__(self, center_D: Tensor, vocabulary: int, projections: int) -> None:
        super().__init__()
        self.center = nn.Parameter(center_D.detach().clone())
        eye = torch.eye(len(center_D), dtype=center_D.dtype, device=center_D.device)
        self.projection = nn.Parameter(eye.repeat(projections, 1, 1))
        self.gate = nn.Parameter(torch.zeros_like(self.center))
        self.weight = nn.Parameter(torch.ones(vocabulary, dtype=center_D.dtype, device=center_D.device))

    def weights(self, ids_NT: Tensor) -> Tensor:
        """Of tokens ``[N, T]``; added ones weigh as the last of the vocabulary."""
        return self.weight[ids_NT.clamp_max(len(self.weight) - 1)]


class AnchorResidual(Residual):
    """The compressor's, with a projection for each distance to the anchor."""

    def __init__(self, center_D: Tensor, memory_tokens: int, vocabulary: int) -> None:
        super().__init__(center_D, vocabulary, DISTANCES + 1)
        self.projection.data *= 0.5
        self.memory_tokens = memory_tokens

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
        weights_NT = self.weights(ids_NT)
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


class WeighedQuestion(Residual):
    """The query reasoner's: one sum for all memory tokens."""

    def __init__(self, center_D: Tensor, vocabulary: int) -> None:
        super().__init__(center_D, vocabulary, 1)

    def forward(self, ids_NT: Tensor, embeds_NTD: Tensor, text_NT: Tensor, states_NMD: Tensor) -> Tensor:
        """The latents ``[N, M, D]``; arguments as of `AnchorResidual.forward`."""
        share_NT = self.weights(ids_NT).clamp(LEAST, 1.0) * text_NT
        sums = (share_NT[..., None] * (embeds_NTD - self.center)).sum(dim=1, keepdim=True)
        count = text_NT.sum(dim=1).clamp_min(1).to(sums.dtype)[:, None, None]
        sums = self.center + (sums / count.sqrt()) @ self.projection[0].T
        return sums.to(states_NMD.dtype).expand_as(states_NMD) + self.gate * states_NMD


class QuestionTokens(WeighedQuestion):
    """The query reasoner's latents where each token has a slot of its own; the heaviest where there are more tokens."""

    def forward(self, ids_NT: Tensor, embeds_NTD: Tensor, text_NT: Tensor, states_NMD: Tensor) -> Tensor:
        """The latents ``[N, M, D]``, tokens in their order and zeros behind them; arguments as of `AnchorResidual`."""
        weights_NT = self.weights(ids_NT).clamp_min(FAINTEST)
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


class Residuals(nn.Module):
    """The residuals of the encoder roles that have one; empty where the checkpoint has none."""

    def __init__(self) -> None:
        super().__init__()
        self.of = nn.ModuleDict()

    def add(self, role: str, config: ClaraConfig, center_D: Tensor, vocabulary: int) -> None:
        """Give an encoder role its residual; ``vocabulary`` is the base model's, without added tokens."""
        if role == "compressor":
            self.of[role] = AnchorResidual(center_D, config.memory_tokens, vocabulary)
        else:
            kind = QuestionTokens if config.ranking == "late" else WeighedQuestion
            self.of[role] = kind(center_D, vocabulary)

    def start_from(self, source: str, role: str, config: ClaraConfig, vocabulary: int) -> None:
        """Give the query reasoner a residual with what ``source``'s has besides projections, where it has one."""
        if source not in self.of:
            return
        kept = {name: p for name, p in self.of[source].named_parameters() if name != "projection"}
        self.add(role, config, kept["center"], vocabulary)
        self.of[role].load_state_dict(kept, strict=False)
        self.of[role].requires_grad_(False)

    def skips_base_model(self, role: str) -> bool:
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

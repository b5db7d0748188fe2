"""Scores and selection in latent space: a checkpoint's score, and the straight-through differentiable top-k.

The paper's score is the cosine of flattened blocks. A checkpoint whose configuration says ``ranking: "late"`` was
trained with another: every slot of the question seeks its likest slot of the document.

Shapes: ``B`` questions, ``K`` candidates, ``k`` selected, ``M`` memory tokens, ``D`` hidden size.
Source: paper section 3.3 (cosine, differentiable top-k), Khattab and Zaharia 2020 (arXiv 2004.12832: late interaction),
recorded numbers in ``goldens/cases/common/topk``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clara_model.errors import ClaraError

PART_BYTES = 64 * 1024 * 1024
"""Of documents' latents that are scored at once, in float32."""
UNLIKE, HALFWAY = 0.15, 0.4
"""Cosine of two slots that counts as nothing, and what of the rest is worth 70 %: measured (docs/experiments)."""
TAKEN = 1e-8
"""What is left of the soft mass of an item that an earlier slot has taken (its logit gains log(1e-8))."""


def cosine_scores(queries_BMD: Tensor, latents_BKMD: Tensor) -> Tensor:
    """Cosine between each question's flattened block and each of its candidates', in float32.

    Args:
        queries_BMD: question latents ``[B, M, D]``.
        latents_BKMD: candidates' latents ``[B, K, M, D]``, or ``[K, M, D]`` shared by all questions.

    Returns:
        ``[B, K]`` float32 in [-1, 1]. A block of zeros scores 0.
    """
    queries = F.normalize(queries_BMD.float().flatten(1), dim=-1)
    latents = F.normalize(latents_BKMD.float().flatten(-2), dim=-1)
    scores = queries @ latents.T if latents.dim() == 2 else torch.einsum("bd,bkd->bk", queries, latents)
    return scores.clamp(-1.0, 1.0)  # rounding goes beyond


def late_scores(queries_BMD: Tensor, latents_BKMD: Tensor) -> Tensor:
    """How much of each question is found in each of its candidates, in float32.

    ``sum_i |q_i| f(max_j cos(q_i, d_j)) / sum_i |q_i|`` over the question's slots ``i`` and the document's ``j``: ``f``
    is 0 up to `UNLIKE`, then rises ever slower to 1, as what BM25 gives a word's count does.

    Args:
        queries_BMD: question latents ``[B, M, D]``; a slot's length is its weight, and a slot of zeros has none.
        latents_BKMD: candidates' latents ``[B, K, M, D]``, or ``[K, M, D]`` shared by all questions.

    Returns:
        ``[B, K]`` float32 in [0, 1]. A question or document of zeros scores 0.
    """
    queries = queries_BMD.float()
    used = int(queries.any(dim=-1).sum(dim=-1).max())
    if not bool(queries[:, used:].any()):
        queries = queries[:, : max(used, 1)]
    weights = queries.norm(dim=-1)
    total = weights.sum(dim=-1, keepdim=True)
    weights = weights / total.where(total > 0, torch.ones_like(total))
    queries, latents = F.normalize(queries, dim=-1), F.normalize(latents_BKMD.float(), dim=-1)
    shape = "kmd" if latents.dim() == 3 else "bkmd"
    best = torch.einsum(f"bid,{shape}->bkim", queries, latents).amax(dim=-1)
    return torch.einsum("bki,bi->bk", worth(best), weights).clamp(0.0, 1.0)


def worth(cosines: Tensor) -> Tensor:
    """What the likest slot's cosine adds to `late_scores`, 0 to 1: ``f`` there."""
    likeness = (cosines - UNLIKE).clamp_min(0.0) / (1.0 - UNLIKE)
    return (1.0 + HALFWAY) * likeness / (likeness + HALFWAY)


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine_scores, "late": late_scores}
"""What ``ranking`` of a `ClaraConfig` names."""


def coarse_blocks(blocks_NMD: Tensor, ranking: str) -> Tensor:
    """The blocks, of questions or documents, whose cosine stands for the score in a vector database.

    The blocks ``[N, M, D]``; for ``late`` the mean of their slots ``[N, 1, D]``: a sum over pairs is a product of sums.
    """
    return blocks_NMD if ranking == "cosine" else blocks_NMD.float().mean(dim=1, keepdim=True)


def scores_in_parts(
    queries_BMD: Tensor, latents_NMD: Tensor, part_bytes: int = PART_BYTES, *, ranking: str = "cosine"
) -> Tensor:
    """Scores of many documents ``[B, N]``, of which only a part is in float32 at one time.

    Args:
        queries_BMD: question latents.
        latents_NMD: at least one document's, shared by all questions.
        part_bytes: of a part in float32.
        ranking: of the checkpoint, one of `SCORES`.

    Raises:
        ClaraError: a score that is no number, because latents hold NaN or infinity.
    """
    size = max(1, part_bytes // (4 * latents_NMD[0].numel()))
    parts = [SCORES[ranking](queries_BMD, part.to(queries_BMD.device)) for part in latents_NMD.split(size)]
    scores_BN = torch.cat(parts, dim=1)
    if not bool(scores_BN.isfinite().all()):
        raise ClaraError("a score is not a number, because latents hold NaN or infinity; load the model in float32")
    return scores_BN


def straight_through_topk(scores_BK: Tensor, k: int, temperature: float = 0.02) -> tuple[Tensor, Tensor]:
    """Select the best ``k`` exactly in the forward pass, and softly in the backward one, slot by slot.

    Slot ``j``'s soft choice is ``softmax(scores / temperature + log(free + 1e-8))`` where ``free`` is 0 for items that
    earlier slots took. A score gap above ``18.4 * temperature`` lets a taken item keep most of the soft mass.

    Args:
        scores_BK: ``[B, K]``; ``-inf`` marks a candidate that is not there.
        k: slots to fill, at most ``K``.
        temperature: of the soft choice, at least 1e-6 (paper: 0.02 on cosines).

    Returns:
        weights ``[B, k, K]`` (one-hot rows with the soft choice's gradient) and indices ``[B, k]``, best first.
    """
    if not 1 <= k <= scores_BK.shape[1]:
        raise ValueError(f"k must be between 1 and the number of candidates ({scores_BK.shape[1]}), got {k}")
    indices = scores_BK.topk(k, dim=-1).indices
    hard = F.one_hot(indices, scores_BK.shape[1]).to(scores_BK.dtype)
    free = 1.0 - (hard.cumsum(dim=1) - hard)
    logits = scores_BK.unsqueeze(1) / max(temperature, 1e-6) + torch.log(free + TAKEN)
    soft = logits.softmax(dim=-1)
    return hard + (soft - soft.detach()), indices


def positives_mask(pos_index: list[list[int]], candidates: int) -> Tensor:
    """``[B, K]`` mask that is 1 at each row's positives; negative indices are padding.

    Raises:
        ValueError: a positive beyond the candidates.
    """
    mask = torch.zeros(len(pos_index), candidates)
    for row, positives in enumerate(pos_index):
        for index in positives:
            if index >= candidates:
                raise ValueError(f"positive {index} is out of range: there are {candidates} candidates")
            if index >= 0:
                mask[row, index] = 1.0
    return mask


def contrastive_loss(scores_BK: Tensor, positives_BK: Tensor, temperature: float = 0.02) -> Tensor:
    """Mean of ``-log(softmax mass on the positives)`` over the questions that have one; 0 where none has.

    Args:
        scores_BK: scores ``[B, K]``.
        positives_BK: 1 at the positives, else 0.
        temperature: of the softmax (published: 0.02).
    """
    log_probs = (scores_BK / temperature).log_softmax(dim=-1)
    masked = log_probs.masked_fill(positives_BK == 0, float("-inf"))
    has_positive = positives_BK.sum(dim=-1) > 0
    if not has_positive.any():
        return scores_BK.sum() * 0.0
    return -masked[has_positive].logsumexp(dim=-1).mean()

"""What a ranking can be taught from beside the answer's own loss, and whether that loss pushes it the right way.

The straight-through choice gets its gradient from the answer alone (paper section 3.3). A soft target says which
candidate the answer is in: gold labels, or the generator's own log-likelihood of the answer given each candidate.
Shapes: ``B`` questions, ``K`` candidates, ``L`` labelled tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_likelihoods(log_probs_L: Tensor, labels_BT: Tensor) -> Tensor:
    """Log-likelihood of each row's answer ``[B]``.

    Args:
        log_probs_L: of the labelled tokens, row by row.
        labels_BT: -100 where nothing is learned; the first position predicts nothing.
    """
    rows_L = (labels_BT[:, 1:] != -100).nonzero()[:, 0]
    return log_probs_L.new_zeros(len(labels_BT)).index_add(0, rows_L, log_probs_L)


def target_loss(scores_BK: Tensor, target_BK: Tensor, temperature: float) -> Tensor:
    """Sum over questions of the cross-entropy between a soft target and the soft choice.

    Args:
        scores_BK: cosines; ``-inf`` marks a candidate that is not there.
        target_BK: weights that sum to 1 in each row; 0 where there is no candidate.
        temperature: of the soft choice.
    """
    log_probs_BK = (scores_BK / temperature).log_softmax(dim=-1)
    return -torch.where(target_BK > 0, target_BK * log_probs_BK, torch.zeros_like(log_probs_BK)).sum()


class Signs:
    """How often the answer's gradient raises the score of the gold candidate, where it is first and where it is not."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.counts = torch.zeros(4)
        """Right and all gradients at gold candidates that rank first, then of the others."""

    def watch(self, scores_BK: Tensor, positives_BK: Tensor) -> None:
        """Count when the gradient comes; descent raises a score whose gradient is below 0."""
        gold_BK = positives_BK.to(scores_BK.device) > 0
        first_BK = scores_BK.detach() >= scores_BK.detach().amax(dim=1, keepdim=True)

        def count(gradient_BK: Tensor) -> None:
            moved_BK = gold_BK & (gradient_BK != 0)
            right_BK = moved_BK & (gradient_BK < 0)
            parts = [mask & place for place in (first_BK, ~first_BK) for mask in (right_BK, moved_BK)]
            self.counts = self.counts.to(gradient_BK.device) + torch.stack([part.sum() for part in parts])

        scores_BK.register_hook(count)

    def read(self) -> Tensor:
        """The counts so far ``[4]``; counting starts anew."""
        counts, self.counts = self.counts, torch.zeros_like(self.counts)
        return counts

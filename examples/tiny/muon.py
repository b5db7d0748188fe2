"""Muon (Jordan et al., 2024) in float32, matrices of one shape together.

`torch.optim.Muon` orthogonalises in bfloat16, one matrix at a time: on a CPU without bfloat16 that is most of a step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic, steepest at zero (https://kellerjordan.github.io/posts/muon/)."""
ROUNDS = 5
"""Of Newton and Schulz."""


def orthogonalised(matrices_NMK: torch.Tensor) -> torch.Tensor:
    """Matrices `[N, M, K]` with singular values near 1 in place of their own; M is at most K."""
    a, b, c = COEFFICIENTS
    near_NMK = matrices_NMK / matrices_NMK.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram_NMM = near_NMK @ near_NMK.mT
        update_NMM = torch.baddbmm(gram_NMM, gram_NMM, gram_NMM, beta=b, alpha=c)
        near_NMK = torch.baddbmm(near_NMK, update_NMM, near_NMK, beta=a)
    return near_NMK


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with the size of AdamW's updates (0.2 times the root of the longer side).

    Args:
        params: matrices.
        lr: learning rate.
        weight_decay: decoupled, times the rate.
        momentum: of the running mean of the gradients.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for every matrix that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure: call backward() first")
        for group in self.param_groups:
            of_shape: dict[tuple[int, int], list[torch.nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    of_shape[tuple(sorted(matrix.shape))].append(matrix)
            for alike in of_shape.values():
                self._step_alike(alike, group)

    def _step_alike(self, matrices: list[torch.nn.Parameter], group: dict[str, Any]) -> None:
        """One step for matrices of one shape, or its transpose."""
        moved = torch.stack([_wide(self._direction(matrix, group["momentum"])) for matrix in matrices])
        size = 0.2 * math.sqrt(max(matrices[0].shape))
        for matrix, update in zip(matrices, orthogonalised(moved), strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            turned = update.mT if matrix.shape[0] > matrix.shape[1] else update
            matrix.add_(turned, alpha=-group["lr"] * size)

    def _direction(self, matrix: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        """The gradient a step ahead of its running mean."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix or its transpose, whichever has no more rows than columns."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix

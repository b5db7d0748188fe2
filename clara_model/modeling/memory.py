"""The memory tokens' input embeddings, which each encoder role has of its own.

Shapes: ``N`` texts, ``T`` ids, ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class MemoryRows(nn.Module):
    """The input embeddings of the memory tokens, one set of rows ``[M, D]`` for each encoder role."""

    def __init__(self, roles: Sequence[str], rows_MD: Tensor) -> None:
        """Every role starts from a copy of the same rows."""
        super().__init__()
        self.rows = nn.ParameterDict({role: nn.Parameter(rows_MD.detach().clone()) for role in roles})

    def of(self, role: str) -> nn.Parameter:
        """One role's rows."""
        return cast(nn.Parameter, self.rows[role])

    def forward(self, role: str, embeds_NTD: Tensor) -> Tensor:
        """``[N, T, D]`` text embeddings with the role's rows behind: ``[N, T + M, D]``."""
        rows = self.of(role).to(embeds_NTD.dtype)
        return torch.cat([embeds_NTD, rows.expand(len(embeds_NTD), -1, -1)], dim=1)

"""The matrix products of some work, counted by shape while it runs, and then run alone on random numbers.

What is missing from a ratio of 1 went into attention, casts, small operations and Python. The products inside a fused
attention are not seen, and count as missing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {torch.ops.aten.mm.default: (0, 1), torch.ops.aten.addmm.default: (1, 2), torch.ops.aten.bmm.default: (0, 1)}
"""Each product's places of its two matrices."""


class Shapes(TorchDispatchMode):
    """Counts the matrix products that are run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            first, second = (args[place] for place in PRODUCTS[func])
            self.found[(tuple(first.shape), tuple(second.shape), first.dtype, str(first.device))] += 1
        return func(*args, **(kwargs or {}))


def products(found: Counter[tuple[Any, ...]]) -> None:
    """All matrix products of the given shapes."""
    for (first, second, dtype, device), count in found.items():
        left, right = (torch.randn(shape, device=device).to(dtype) for shape in (first, second))
        for _ in range(count):
            torch.matmul(left, right)

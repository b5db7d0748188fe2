"""Muon of clara-tiny's base, against torch's own and against what orthogonalising means."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "tiny"))

import muon


def _matrices(seed: int = 0) -> list[torch.nn.Parameter]:
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((6, 6), (8, 5), (5, 8), (6, 6), (8, 5))]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="the lowest torch has no Muon")
def test_three_steps_are_those_of_torch_but_for_bfloat16():
    ours, theirs, starts = _matrices(), _matrices(), _matrices()
    own = muon.Muon(ours, lr=0.1, weight_decay=0.01)
    of_torch = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for mine, other, gradient in zip(ours, theirs, _matrices(step + 1), strict=True):
            mine.grad, other.grad = gradient.detach().clone(), gradient.detach().clone()
        own.step()
        of_torch.step()
    for mine, other, start in zip(ours, theirs, starts, strict=True):
        assert (mine - other).norm() < 0.02 * (mine - start).norm()


def test_singular_values_come_near_one_and_directions_stay():
    (left, _, right) = torch.linalg.svd(torch.randn(3, 4, 7, generator=torch.manual_seed(1)), full_matrices=False)
    matrices = left @ torch.diag_embed(torch.tensor([[4.0, 2.0, 1.0, 0.5]] * 3)) @ right
    found = muon.orthogonalised(matrices)
    assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.35
    turned = left.mT @ found @ right.mT
    assert torch.allclose(turned, torch.diag_embed(turned.diagonal(dim1=1, dim2=2)), atol=1e-5)


def test_a_matrix_without_a_gradient_stays_and_one_of_zeros_only_decays():
    moved, still = _matrices()[:2]
    moved.grad = torch.zeros_like(moved)
    before = [moved.detach().clone(), still.detach().clone()]
    muon.Muon([moved, still], lr=0.1, weight_decay=0.01).step()
    assert torch.equal(still, before[1]) and torch.allclose(moved, before[0] * (1 - 0.1 * 0.01))


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="backward"):
        muon.Muon(_matrices(), lr=0.1).step(lambda: 0.0)

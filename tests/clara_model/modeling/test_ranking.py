"""Ranking: cosines, selection and losses computed by hand, and the selection's gradient against its formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clara_model.errors import ClaraError
from clara_model.modeling.ranking import (
    contrastive_loss,
    cosine_scores,
    positives_mask,
    scores_in_parts,
    straight_through_topk,
)


def test_cosines_by_hand():
    """Blocks [[3, 0], [0, 4]] and so on, flattened: (3, 0, 0, 4) has length 5."""
    query = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    documents = torch.tensor(
        [[[3.0, 0.0], [0.0, 4.0]], [[4.0, 0.0], [0.0, -3.0]], [[0.0, 1.0], [0.0, 0.0]], [[-6, 0], [0, -8]]]
    )
    expected = torch.tensor([[1.0, 0.0, 0.0, -1.0]])
    torch.testing.assert_close(cosine_scores(query, documents), expected)
    torch.testing.assert_close(cosine_scores(query, documents[None]), expected)
    documents[2] = torch.tensor([[1.0, 1.0], [1.0, 1.0]])  # (3 + 4) / (5 * 2)
    assert cosine_scores(query, documents)[0, 2].item() == pytest.approx(0.7)


def test_candidates_of_their_own_or_shared():
    queries, documents = torch.randn(2, 3, 4), torch.randn(5, 3, 4)
    shared = cosine_scores(queries, documents)
    own = cosine_scores(queries, documents.expand(2, 5, 3, 4))
    assert shared.shape == (2, 5)
    torch.testing.assert_close(shared, own)
    torch.testing.assert_close(cosine_scores(queries * 7, documents * 0.1), shared)  # length does not matter
    turned = cosine_scores(queries, torch.stack([documents, documents.flip(0)]))
    torch.testing.assert_close(turned[1], shared[1].flip(0))


def test_scores_are_float32_and_zeros_score_zero():
    scores = cosine_scores(torch.ones(1, 1, 2, dtype=torch.bfloat16), torch.zeros(3, 1, 2, dtype=torch.bfloat16))
    assert scores.dtype == torch.float32 and scores.tolist() == [[0.0, 0.0, 0.0]]


# -- selection --------------------------------------------------------------------------------------------------


def test_selection_by_hand():
    weights, indices = straight_through_topk(torch.tensor([[0.1, 0.5, 0.3, 0.2], [0.9, 0.1, 0.2, 0.3]]), 2)
    assert indices.tolist() == [[1, 2], [0, 3]]
    assert weights.tolist() == [[[0, 1, 0, 0], [0, 0, 1, 0]], [[1, 0, 0, 0], [0, 0, 0, 1]]]


def test_a_missing_candidate_is_chosen_last():
    weights, indices = straight_through_topk(torch.tensor([[-math.inf, -0.5, 0.3]]), 3)
    assert indices.tolist() == [[2, 1, 0]] and weights[0, :2].isfinite().all()


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_must_be_possible(k: int):
    with pytest.raises(ValueError, match=rf"k must be between 1 and the number of candidates \(3\), got {k}"):
        straight_through_topk(torch.zeros(1, 3), k)


def formula(scores: Tensor, costs: Tensor, indices: Tensor, temperature: float) -> Tensor:
    """d sum(W * C) / d scores, written out: for each slot p * (c - <p, c>) / temperature."""
    total = torch.zeros_like(scores)
    for row in range(len(scores)):
        taken: list[int] = []
        for slot, chosen in enumerate(indices[row].tolist()):
            mass = [
                math.exp((float(s) - float(scores[row].max())) / temperature) * (1e-8 if i in taken else 1.0 + 1e-8)
                for i, s in enumerate(scores[row])
            ]
            p = torch.tensor([m / sum(mass) for m in mass], dtype=scores.dtype)
            c = costs[row, slot]
            total[row] += p * (c - (p * c).sum()) / temperature
            taken.append(chosen)
    return total


@pytest.mark.parametrize("temperature", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_gradient_is_the_soft_choices(k: int, temperature: float):
    torch.manual_seed(k)
    scores = (torch.randn(3, 4, dtype=torch.float64) * 0.1).requires_grad_()
    costs = torch.randn(3, k, 4, dtype=torch.float64)
    weights, indices = straight_through_topk(scores, k, temperature)
    (weights * costs).sum().backward()
    assert indices.tolist() == scores.topk(k).indices.tolist()
    torch.testing.assert_close(scores.grad, formula(scores.detach(), costs, indices, temperature), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.0, 1e-9])
def test_temperature_has_a_floor(temperature: float):
    scores = torch.tensor([[0.0, 1e-6]], requires_grad=True)
    weights, _ = straight_through_topk(scores, 1, temperature)
    weights[0, 0, 1].backward()
    share = 1 / (1 + math.exp(-1))  # scores / 1e-6 differ by one
    assert scores.grad[0, 1].item() == pytest.approx(share * (1 - share) / 1e-6, rel=1e-3)


# -- positives and the contrastive loss -------------------------------------------------------------------------


def test_positives():
    assert positives_mask([[0, 2], [], [1, -1], [1, 1]], 3).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_a_positive_out_of_range():
    with pytest.raises(ValueError, match="positive 3 is out of range: there are 3 candidates"):
        positives_mask([[3]], 3)


def test_contrastive_loss_by_hand():
    """Softmax of (ln 1, ln 2, ln 5) is (1, 2, 5) / 8; rows without a positive are left out of the mean."""
    scores = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0], [3.0, 3.0, 3.0]]).log() * 0.5
    positives = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    expected = -(math.log(2 / 8) + math.log(6 / 8)) / 2
    assert contrastive_loss(scores, positives, temperature=0.5).item() == pytest.approx(expected, rel=1e-6)


def test_contrastive_loss_with_a_missing_candidate():
    scores = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    loss = contrastive_loss(scores, torch.tensor([[1.0, 0.0, 0.0]]), temperature=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2)) and scores.grad.tolist() == [[-0.5, 0.5, 0.0]]


def test_contrastive_loss_without_positives_is_zero_with_zero_gradient():
    scores = torch.randn(2, 3, requires_grad=True)
    loss = contrastive_loss(scores, torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_contrastive_loss_is_cross_entropy_for_one_positive():
    scores, positives = torch.randn(4, 5), F.one_hot(torch.tensor([1, 0, 4, 2]), 5).float()
    expected = F.cross_entropy(scores / 0.02, torch.tensor([1, 0, 4, 2]))
    torch.testing.assert_close(contrastive_loss(scores, positives), expected)


def test_cosines_stay_within_bounds():
    blocks = torch.randn(500, 3, 7, generator=torch.Generator().manual_seed(0))
    scores = cosine_scores(blocks, blocks)
    assert float(scores.max()) == 1.0 and float(cosine_scores(blocks, -blocks).min()) == -1.0


@pytest.mark.parametrize("part_bytes", [1, 100, 1000, 10**9])
def test_scores_in_parts_are_the_scores(part_bytes: int):
    queries, blocks = torch.randn(3, 2, 4), torch.randn(50, 2, 4, dtype=torch.float64).to(torch.bfloat16)
    torch.testing.assert_close(scores_in_parts(queries, blocks, part_bytes), cosine_scores(queries, blocks))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(value: float):
    blocks = torch.randn(5, 2, 4)
    blocks[3, 1, 1] = value
    with pytest.raises(ClaraError, match="a score is not a number, because latents hold NaN or infinity"):
        scores_in_parts(torch.randn(1, 2, 4), blocks)

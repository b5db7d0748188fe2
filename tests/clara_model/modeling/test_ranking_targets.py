"""What teaches a ranking: likelihoods by row, the soft target's loss, and the sign of the answer's gradient."""

import math

import torch

from clara_model.modeling.objectives import GradientSignMonitor, row_likelihoods, target_loss


def test_likelihoods_are_summed_row_by_row():
    labels = torch.tensor([[-100, -100, 5, 6], [-100, -100, -100, 7], [9, -100, -100, -100]])
    log_probs = torch.tensor([-1.0, -2.0, -4.0])
    assert row_likelihoods(log_probs, labels).tolist() == [-3.0, -4.0, 0.0], "a first position predicts nothing"


def test_the_target_loss_by_hand_with_a_candidate_that_is_not_there():
    scores = torch.tensor([[0.3, 0.1, float("-inf")]], requires_grad=True)
    target = torch.tensor([[0.75, 0.25, 0.0]])
    loss = target_loss(scores, target, temperature=0.1)
    total = math.exp(3) + math.exp(1)
    expected = -(0.75 * math.log(math.exp(3) / total) + 0.25 * math.log(math.exp(1) / total))
    assert abs(loss.item() - expected) < 1e-6
    loss.backward()
    share = math.exp(3) / total
    expected = [10 * (share - 0.75), 10 * (1 - share - 0.25), 0.0]
    torch.testing.assert_close(scores.grad[0], torch.tensor(expected))


def test_signs_are_counted_apart_for_gold_that_is_first():
    signs = GradientSignMonitor()
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.1]], requires_grad=True)
    scored = scores + 0.0
    signs.watch(scored, torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    (scored * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]])).sum().backward()
    assert signs.read().tolist() == [1, 2, 1, 1], "gold is first in two rows, raised in one of them; and in the other"
    assert signs.read().tolist() == [0, 0, 0, 0]

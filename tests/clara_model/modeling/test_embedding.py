import math

import pytest
import torch
from small_model import QUESTIONS, TEXTS

from clara_model.inference.clara import Clara
from clara_model.latents import Latents
from clara_model.modeling.embedding import _hadamard, _rows, _signs, embed, project
from clara_model.modeling.ranking import cosine_scores

BLOCKS = torch.randn(30, 8, 64, generator=torch.Generator().manual_seed(0)) + 0.5


def test_the_transform_is_orthogonal():
    matrix = _hadamard(torch.eye(8))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8))
    assert matrix.abs().mul(math.sqrt(8)).round().unique().tolist() == [1.0]


def test_a_wide_hadamard_product_is_made_of_small_ones():
    """Against sums and differences of halves, the definition."""
    rows = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, step = rows, 1
    while step < 4096:
        even, odd = expected.view(3, -1, 2, step).unbind(2)
        expected = torch.stack([even + odd, even - odd], dim=2).view(3, 4096)
        step *= 2
    torch.testing.assert_close(_hadamard(rows.float()).double(), expected / 64, atol=1e-5, rtol=1e-5)


def test_by_hand_at_width_two():
    """Signs, sum and difference, the row that was chosen, unit length."""
    block = torch.tensor([[[3.0, 4.0]]])
    a, b = (block.flatten() * _signs(2)).tolist()
    expected = [a + b, a - b][_rows(2, 1).item()]
    assert project(block, 1).item() == math.copysign(1.0, expected)


@pytest.mark.parametrize("size", [1, 2, 100, 511, 512, 700])
def test_any_size_gives_unit_vectors_of_that_size(size):
    vectors = project(BLOCKS, size)
    assert vectors.shape == (30, size) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(30))


@pytest.mark.parametrize("size", [512, 700])
def test_from_the_width_of_a_block_on_the_cosine_is_the_score(size):
    vectors = project(BLOCKS, size)
    torch.testing.assert_close(vectors @ vectors.T, cosine_scores(BLOCKS, BLOCKS))


@pytest.mark.parametrize("shape", [(4, 256), (3, 200)])
@pytest.mark.parametrize("size", [64, 256])
def test_the_cosine_is_within_its_bound_of_the_score(shape, size):
    generator = torch.Generator().manual_seed(1)
    common = torch.randn(*shape, generator=generator)
    blocks = torch.randn(60, *shape, generator=generator) + common
    blocks[:, :, 3] += 8.0  # one hidden unit that outweighs the others, as real models have
    vectors, scores = project(blocks, size), cosine_scores(blocks, blocks)
    error = (vectors @ vectors.T - scores).pow(2).mean().sqrt().item()
    assert error < 2 * (1 - scores.pow(2)).mean().item() / math.sqrt(size)


def test_a_block_has_one_vector_whatever_it_is_embedded_with():
    assert torch.equal(project(BLOCKS, 100)[7], project(BLOCKS[7:8], 100)[0])
    assert torch.equal(project(BLOCKS.bfloat16(), 100), project(BLOCKS.bfloat16().float(), 100))


def test_the_signs_and_rows_are_the_same_for_ever():
    """Vectors that were stored last year must be comparable with those made today."""
    assert _signs(16).int().tolist() == PINNED_SIGNS
    assert _rows(16, 6).tolist() == PINNED_ROWS
    assert _rows(16, 3).tolist() == PINNED_ROWS[:3]
    assert sorted(_rows(16, 16).tolist()) == list(range(16))


PINNED_SIGNS = [-1, 1, -1, -1, 1, -1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1]
PINNED_ROWS = [1, 14, 13, 15, 3, 7]


def test_a_block_of_zeros_has_a_vector_of_zeros():
    assert embed(Latents(torch.zeros(1, 2, 4), (0,), "x"), 3) == [[0.0, 0.0, 0.0]]


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        embed(Latents(BLOCKS, (1,) * 30, "x"), 0)


def test_questions_and_documents_are_in_one_space(loaded):
    clara = Clara(loaded)
    documents, questions = clara.compress(TEXTS), clara.encode_queries(QUESTIONS)
    vectors = torch.tensor(embed(questions)) @ torch.tensor(embed(documents)).T
    torch.testing.assert_close(vectors, cosine_scores(questions.vectors, documents.vectors))
    assert {type(value) for value in embed(documents)[0]} == {float}

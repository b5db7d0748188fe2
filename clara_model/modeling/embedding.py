"""One short vector for a block of latents, whose cosine is close to the cosine of the whole blocks.

For first-stage search in a vector store, which takes one vector of bounded size for a document; the full score of the
candidates it finds comes from `modeling.ranking`. The vector is a random orthogonal sketch: signs, a Hadamard
transform, ``size`` of its rows, unit length. It depends on nothing but the block and ``size``, so vectors that were
stored by another process, machine or version can be compared with it. Leaves out learned projections (they would need
a corpus) and search itself.

Shapes: ``N`` blocks, ``M`` memory tokens, ``D`` hidden size, ``W`` the width ``M * D`` rounded up to a power of two.
Source: subsampled randomized Hadamard transform, Ailon and Chazelle 2009 (doi 10.1137/060673096); its error is
measured by ``examples/benchmarks/embedding_agreement.py``.
"""

from __future__ import annotations

import functools
import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from clara_model.defaults import DIMENSIONS
from clara_model.latents import Latents
from clara_model.modeling.ranking import coarse_blocks

_KEY = "clara embedding 1"
"""Seed of the signs and the rows; another one would make stored vectors useless."""
_FACTOR = 64
"""Width of the largest small Hadamard matrix."""


def embed(latents: Latents, size: int = DIMENSIONS, ranking: str = "cosine") -> list[list[float]]:
    """One vector for each block: of questions and of documents, in one space.

    The cosine of two vectors differs from `cosine_scores` of the blocks by about ``(1 - cosine ** 2) / sqrt(size)``,
    whatever the blocks' width; from ``size = M * D`` on there is no difference. Of a checkpoint that ranks otherwise,
    it is that of `coarse_blocks`, which only says which documents are worth the whole score.

    Args:
        latents: from ``Clara.compress`` or ``Clara.encode_queries``.
        size: numbers in each vector; those beyond the block's are zero.
        ranking: of the checkpoint.

    Returns:
        one for each document, of a long one the mean of its windows' vectors: ``N`` lists of ``size`` floats, each of
        length 1 (of length 0 for a block of zeros).

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    vectors_NW = project(coarse_blocks(latents.vectors, ranking), size)
    if latents.windows is not None:
        sums_NW = vectors_NW.new_zeros(latents.documents, size)
        places = torch.tensor([window.document for window in latents.windows], device=vectors_NW.device)
        vectors_NW = F.normalize(sums_NW.index_add_(0, places, vectors_NW), dim=-1)
    return vectors_NW.tolist()


def project(blocks_NMD: Tensor, size: int) -> Tensor:
    """The vectors of `embed` as a tensor ``[N, size]`` float32; costs ``W * log2(W)`` additions for each block.

    Args:
        blocks_NMD: any float type.
        size: at least 1.
    """
    flat_NW = F.normalize(blocks_NMD.float().flatten(1), dim=-1)
    width = flat_NW.shape[1]
    if size >= width:
        return F.pad(flat_NW, (0, size - width))
    return F.normalize(rotated(blocks_NMD, size), dim=-1)


def rotated(blocks_NMD: Tensor, size: int) -> Tensor:
    """At most ``size`` numbers ``[N, min(size, W)]`` float32 of the randomly rotated blocks of length 1."""
    flat_NW = F.normalize(blocks_NMD.float().flatten(1), dim=-1)
    padded = 1 << (flat_NW.shape[1] - 1).bit_length()
    mixed_NW = _hadamard(F.pad(flat_NW, (0, padded - flat_NW.shape[1])) * _signs(padded).to(flat_NW.device))
    return mixed_NW[:, _rows(padded, min(size, padded)).to(flat_NW.device)]


def _hadamard(rows_NW: Tensor) -> Tensor:
    """Every row times the Hadamard matrix of its width (a power of two), scaled to keep its length.

    That matrix is a Kronecker product of small ones, so a few small matrix products do it.
    """
    width, done = rows_NW.shape[1], 1
    while done < width:
        factor = min(_FACTOR, width // done)
        small = _matrix(factor).to(rows_NW.device)
        rows_NW = rows_NW.view(-1, factor) @ small if done == 1 else small @ rows_NW.view(-1, factor, done)
        done *= factor
    return rows_NW.reshape(-1, width)


@functools.cache
def _matrix(width: int) -> Tensor:
    """The Hadamard matrix of a power of two, scaled to keep lengths."""
    matrix = torch.ones(1, 1)
    for _ in range(width.bit_length() - 1):
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix * width**-0.5


@functools.cache
def _signs(width: int) -> Tensor:
    """``[W]`` of +1 and -1, the same everywhere and always."""
    data = hashlib.shake_256(f"{_KEY} signs".encode()).digest(width)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).bitwise_and(1).float().mul_(2).sub_(1)


@functools.cache
def _rows(width: int, size: int) -> Tensor:
    """``size`` distinct rows out of ``W``; those of a smaller size are the first ones of a larger."""
    data = hashlib.shake_256(f"{_KEY} rows {width}".encode()).digest(8 * width)
    keys = [(data[8 * row : 8 * row + 8], row) for row in range(width)]
    return torch.tensor([row for _, row in sorted(keys)[:size]])

"""Short vectors for the coarse scan: where a block lies along the directions in which a store's blocks differ most.

Latents of one model have much in common and differ in few directions. So a block's random rotation (`embedding`) loses
what all blocks of the store share and is projected on its first 256 principal directions, learned from the store's own
blocks: ``cosine(question, block)`` is nearly a constant plus the product of the two projections. Where blocks differ
in all directions alike, it is as good as a random projection of that size. The signs of 512 random mixtures of a
projection, one bit each, say roughly the same and are read four times faster than bytes.

Late interaction compares slots, of which no one vector can speak, so there every slot has the signs of 512 numbers of
its rotation: two slots' cosine is about ``cos(pi * differing / signs)``.
Shapes: ``N`` blocks, ``M`` slots of ``D`` numbers, ``R`` numbers of a rotation, ``S`` directions, ``G`` bytes of signs.
Source: principal components; sign bits after Charikar 2002 (doi 10.1145/509907.509965).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clara_model.modeling.embedding import rotated

ROTATION = 2048
"""Numbers of the rotation that directions are learned in; a block of fewer loses nothing."""
SIZE = 256
"""Directions; a million blocks are 256 MB as bytes."""
BITS = 512
"""Signs of a block, or of a slot where slots are compared; a million are 64 MB."""
_SEED = 20_111
Array = np.ndarray[Any, np.dtype[Any]]


def rotation(blocks_NMD: Tensor) -> Array:
    """``[N, ROTATION]`` float32 of length 1, zeros behind the last where a block has fewer numbers."""
    made = F.normalize(rotated(blocks_NMD, ROTATION), dim=-1)
    return F.pad(made, (0, ROTATION - made.shape[1])).numpy()


@dataclass(frozen=True)
class Directions:
    """The mean of a store's rotations, and the directions in which they differ most."""

    mean_R: Array
    axes_RS: Array
    mixture_SB: Array
    """What the signs are taken of."""

    @classmethod
    def learned(cls, rotations_NR: Array) -> Directions:
        """From some blocks; with fewer than `SIZE` the last directions are zero."""
        mean_R = rotations_NR.mean(axis=0, dtype=np.float64).astype(np.float32)
        known = min(SIZE, *rotations_NR.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            _, _, axes = torch.pca_lowrank(torch.from_numpy(rotations_NR - mean_R), q=known, center=False)
            mixture_SB = torch.randn(SIZE, BITS).numpy()
        axes_RS = np.zeros((ROTATION, SIZE), dtype=np.float32)
        axes_RS[:, :known] = axes.numpy()
        return cls(mean_R, axes_RS, mixture_SB)

    def document(self, rotations_NR: Array) -> Array:
        """``[N, S]`` float32."""
        return np.asarray((rotations_NR - self.mean_R) @ self.axes_RS)

    def question(self, rotation_R: Array) -> Array:
        """``[S]`` float32; the part along the mean gives all blocks the same and is left out.

        Not by BLAS: its threads, once woken, keep a core busy for longer than a scan takes.
        """
        return np.einsum("r,rs->s", rotation_R, self.axes_RS)

    def question_signs(self, question_S: Array) -> Array:
        """``[1, BITS / 8]`` bytes as `signs` makes them."""
        return np.packbits(np.einsum("s,sb->b", question_S, self.mixture_SB) > 0)[None]

    def signs(self, projections_NS: Array) -> Array:
        """``[N, BITS / 8]`` bytes whose bits are 1 where a mixture is above 0."""
        return np.packbits(projections_NS @ self.mixture_SB > 0, axis=1)

    def tobytes(self) -> bytes:
        """For `frombytes`."""
        return b"".join(part.astype(np.float32).tobytes() for part in (self.mean_R, self.axes_RS, self.mixture_SB))

    @classmethod
    def frombytes(cls, data: bytes) -> Directions:
        """What `tobytes` made."""
        flat = np.frombuffer(data, dtype=np.float32)
        mean, axes, mixture = np.split(flat, [ROTATION, ROTATION * (1 + SIZE)])
        return cls(mean, axes.reshape(ROTATION, SIZE), mixture.reshape(SIZE, BITS))


def slot_signs(blocks_NMD: Tensor) -> Array:
    """``[N, M, G]`` uint8, ``G`` a multiple of 8; bits behind the last number are 0."""
    blocks, slots, size = blocks_NMD.shape
    signs = np.packbits(rotated(blocks_NMD.reshape(blocks * slots, 1, size), BITS).numpy() > 0, axis=1)
    padded = np.pad(signs, ((0, 0), (0, -signs.shape[1] % 8)))
    return padded.reshape(blocks, slots, padded.shape[1])


def slot_bits(size: int) -> int:
    """How many bits of a slot's signs say something, for slots of ``size`` numbers."""
    return min(BITS, 1 << (size - 1).bit_length())


def as_bytes(projections_NS: Array) -> tuple[Array, Array]:
    """``[N, S]`` int8, and ``[N]`` float32 to multiply a row with so that it is the projection again."""
    scale_N = np.maximum(np.abs(projections_NS).max(axis=1), 1e-12) / 127
    return np.rint(projections_NS / scale_N[:, None]).astype(np.int8), scale_N.astype(np.float32)

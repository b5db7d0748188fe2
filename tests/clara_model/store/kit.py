"""Blocks for the tests of stores: each says in its numbers which key it is of."""

import hashlib
import os

import torch

from clara_model.store import Block
from clara_model.windows import content_key

BUCKET = os.environ.get("CLARA_TEST_BUCKET")
"""URL of a bucket that may be written to, such as ``s3://bucket``."""
FINGERPRINT = "f1"
OTHER = "f2"


def key(name: object) -> str:
    return content_key(str(name))


def block(name: object, slots: int = 4, width: int = 32, dtype: torch.dtype = torch.bfloat16) -> Block:
    """Always the same for a name, and like no other."""
    seed = int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:6], "big")
    vector = torch.randn(slots, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return Block(vector, len(str(name)), f"text of {name}")


def blocks(names: range | list, **sizes: int) -> dict[str, Block]:
    return {key(name): block(name, **sizes) for name in names}


def same(one: Block | None, other: Block) -> bool:
    return (
        one is not None
        and one.vector.dtype == other.vector.dtype
        and torch.equal(one.vector, other.vector)
        and (one.length, one.text) == (other.length, other.text)
    )

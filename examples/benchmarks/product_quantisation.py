"""Product quantisation of stored latents beside the store's int4: the columns of `element_types.py`.

A slot's vector is kept as its length and one byte for each stretch of 2, 4 or 8 of its numbers: the place of the
likest of 256 stretches that were learned from latents of other passages (`faiss.ProductQuantizer`, extra ``search``).
So ``pq2`` takes the bytes of int4, ``pq4`` and ``pq8`` a half and a quarter of them. ``levels`` is what needs nothing
learned: int4's bytes, with the 16 steps placed as is best for normal numbers (Max 1960) in place of even ones. The
store has neither type: this measures what they would be worth.

    python examples/benchmarks/product_quantisation.py                       # clara-tiny; random blocks of a 7B's shape
    python examples/benchmarks/product_quantisation.py --model clara-small --rows nq.jsonl

The stretches are learned from the rows behind the questions, less what the questions offer too, or from other documents
of clara-tiny's world; for random blocks, whose numbers are all alike, one codebook serves all stretches of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
import torch
from element_types import SEVEN_B, Kind, arguments, element_type, on_7b_shapes, on_answers, questions, random_blocks
from torch import Tensor

from clara_model import Clara
from trainers.data.row import Row

STRETCHES = (2, 4, 8)
"""Numbers to a byte; int4 has 2."""
LEARNED_FROM = 12_000
"""Vectors; faiss asks for 39 to each of the 256 stretches."""
OTHER_ROWS, OTHER_DOCUMENTS = 100, 1500
"""Behind the questions; of clara-tiny's world."""
LEVELS = (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6180, 2.0690, 2.7326)
"""Above zero, of numbers with variance 1."""
ROUNDS = 8
"""Of k-means."""
SCALE_BYTES = 4
"""For a vector's length, as int8 and int4 have for theirs."""


def product(stretch: int, learned_NMD: Tensor, shared: bool = False) -> Kind:
    """Codebooks of some latents: for each stretch of a vector, or one for all, as good where all numbers are alike."""
    width = learned_NMD.shape[-1]
    quantizer = faiss.ProductQuantizer(width, width // stretch, 8)
    quantizer.cp.niter = ROUNDS
    if shared:
        quantizer.train_type = faiss.ProductQuantizer.Train_shared
    quantizer.train(_flat(learned_NMD)[0])

    def restored(vectors_NMD: Tensor) -> Tensor:
        flat, lengths = _flat(vectors_NMD)
        found = torch.from_numpy(quantizer.decode(quantizer.compute_codes(flat)) * lengths)
        return found.view(vectors_NMD.shape).to(vectors_NMD.dtype)

    return Kind(f"pq{stretch}", restored, lambda slots, numbers: slots * (SCALE_BYTES + numbers // stretch))


def fixed_levels() -> Kind:
    """Each number as the nearest of 16 levels, times the root mean square of its vector."""
    levels = torch.tensor([-level for level in reversed(LEVELS)] + list(LEVELS))
    middles = (levels[1:] + levels[:-1]) / 2

    def restored(vectors_NMD: Tensor) -> Tensor:
        scale = vectors_NMD.float().square().mean(dim=-1, keepdim=True).sqrt()
        return (levels[torch.bucketize(vectors_NMD.float() / scale.clamp_min(1e-12), middles)] * scale).to(
            vectors_NMD.dtype
        )

    return Kind("levels", restored, element_type("int4").nbytes)


def _flat(vectors_NMD: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of length 1, and their lengths."""
    flat = vectors_NMD.float().flatten(0, -2)
    lengths = flat.norm(dim=-1, keepdim=True)  # 0 brings a slot of zeros back as it was
    return (flat / lengths.clamp_min(1e-12)).numpy(), lengths.numpy()


def sample(vectors_NMD: Tensor) -> Tensor:
    """As many vectors as are learned from, of all blocks; slots of zeros teach nothing."""
    flat = vectors_NMD.float().flatten(0, -2)
    flat = flat[flat.any(dim=-1)]
    chosen = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:LEARNED_FROM]
    return flat[chosen]


def kinds(learned_ND: Tensor, shared: bool = False) -> Iterator[Kind]:
    """The store's smallest type, then the codebooks, each learned when its turn comes."""
    yield element_type("int4")
    yield fixed_levels()
    for stretch in STRETCHES:
        yield product(stretch, learned_ND[:, None], shared)


def taught(file: str | None, asked: list[Row]) -> list[str]:
    """Other passages than those of the questions."""
    if file is not None:
        return others(questions(file, len(asked) + OTHER_ROWS), asked)
    from world import World  # its folder is on the path since the questions were made

    world = World(20_002, held_out=True)
    return [world.document(entity) for entity in world.entities(OTHER_DOCUMENTS)]


def others(rows: list[Row], asked: list[Row]) -> list[str]:
    """Passages of some rows that the questions do not offer."""
    offered = {text for row in asked for text in row.documents}
    return list(dict.fromkeys(text for row in rows for text in row.documents if text not in offered))


def main() -> None:
    args = arguments(__doc__)
    asked = questions(args.rows, args.questions)
    with Clara.load(args.model, dtype="float32", device="cpu", cache_bytes=0) as clara:
        learned = sample(clara.compress(taught(args.rows, asked)).vectors)
        print(f"learned from {len(learned):,} vectors")
        on_answers(clara, asked, kinds(learned))
    if args.rows is None:
        on_7b_shapes(kinds(sample(random_blocks(LEARNED_FROM // SEVEN_B[0], seed=1)), shared=True))


if __name__ == "__main__":
    main()

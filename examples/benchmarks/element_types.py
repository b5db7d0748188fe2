"""What smaller element types of a store cost: scores, rankings and answers beside bytes, against latents as they are.

On clara-tiny's held-out questions (20 candidates each, answers from the best 5), and on random blocks of a 7B's shape,
where only scores can be compared.

    python examples/benchmarks/element_types.py [--questions 100] [--model clara-tiny]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from clara_model import Clara, Latents
from clara_model.cli.demo import is_right
from clara_model.modeling.ranking import cosine_scores
from clara_model.store.encodings import decode, encode, encoded_bytes

TYPES = ("float32", "bfloat16", "float16", "int8", "int4")
READ = 5


def stored(vectors_NMD: Tensor, kind: str) -> Tensor:
    """The blocks as they come back from a store of this element type."""
    return torch.stack([decode(encode(block, kind)) for block in vectors_NMD])


def on_answers(model: str, count: int) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
    from data import stage3_rows
    from world import World

    rows = list(stage3_rows(World(20_001, held_out=True), count))
    with Clara.load(model, dtype="float32", device="cpu") as clara:
        exact = [clara.compress(row["docs"]) for row in rows]
        before: list[tuple[list[int], dict[int, float], str]] = []
        print(
            "| type | bytes of a block | largest change of a score | same first | same best 5 | right | same answer |"
        )
        print("|---|---|---|---|---|---|---|")
        for kind in TYPES:
            change, first, best, right, same = 0.0, 0, 0, 0, 0
            for number, (row, latents) in enumerate(zip(rows, exact, strict=True)):
                kept = Latents(stored(latents.vectors, kind), latents.lengths, latents.fingerprint)
                answer = clara.answer(row["question"], kept, READ)
                order = [one.index for one in answer.ranking]
                scores = {one.index: one.score for one in answer.ranking}
                if kind == TYPES[0]:
                    before.append((order, scores, answer.text))
                old_order, old_scores, old_text = before[number]
                change = max(change, *(abs(scores[index] - old_scores[index]) for index in scores))
                first += order[0] == old_order[0]
                best += set(order[:READ]) == set(old_order[:READ])
                same += answer.text == old_text
                right += is_right(answer.text, [row["gold_answer"]])
            nbytes = encoded_bytes(kind, *exact[0].vectors.shape[1:])
            shares = " | ".join(f"{value / len(rows):.3f}" for value in (first, best, right, same))
            print(f"| {kind} | {nbytes:,} | {change:.5f} | {shares} |", flush=True)


def on_7b_shapes(blocks: int = 500) -> None:
    """Blocks with half of their strength in common, in bfloat16 as a 7B gives them."""
    draw = torch.Generator().manual_seed(0)
    common = torch.randn(1, 16, 4096, generator=draw)
    vectors = (common + torch.randn(blocks, 16, 4096, generator=draw)).bfloat16()
    questions = (vectors[:20].float() + torch.randn(20, 16, 4096, generator=draw)).bfloat16()
    exact = cosine_scores(questions, vectors)
    print("\n| type | bytes of a block | largest change of a score | same best 5 |")
    print("|---|---|---|---|")
    for kind in TYPES[1:]:
        scores = cosine_scores(questions, stored(vectors, kind))
        pairs = zip(scores.topk(READ).indices.tolist(), exact.topk(READ).indices.tolist(), strict=True)
        same = sum(set(one) == set(other) for one, other in pairs) / len(questions)
        change = (scores - exact).abs().max()
        print(f"| {kind} | {encoded_bytes(kind, 16, 4096):,} | {change:.5f} | {same:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--model", default="clara-tiny")
    args = parser.parse_args()
    on_answers(args.model, args.questions)
    on_7b_shapes()


if __name__ == "__main__":
    main()

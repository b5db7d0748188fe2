"""What smaller element types of a store cost: scores, rankings and answers beside bytes, against latents as they are.

Questions with their candidates, answered from as many blocks as the checkpoint reads; without a file of them also
random blocks of a 7B's shape, where only scores can be compared.

    python examples/benchmarks/element_types.py                  # clara-tiny, held-out questions of its made-up world
    python examples/benchmarks/element_types.py --model clara-small --rows nq.jsonl    # rows of the evaluation's form

Leaves out product quantisation (`product_quantisation.py`, which prints the same columns).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clara_model import Clara, Latents
from clara_model.cli.demo import is_right
from clara_model.modeling.ranking import cosine_scores, scores_in_parts
from clara_model.store.encodings import decode, encode, encoded_bytes
from trainers.data.row import Row, parse_row
from trainers.data.rows import read_rows
from trainers.evaluation.metrics import score_answer

TYPES = ("bfloat16", "float16", "int8", "int4")
NEW_TOKENS = 16
"""Of an answer; the right ones are shorter."""
SEVEN_B = (16, 4096)
"""Slots and numbers of a 7B's block at rate 16."""
BEST = 5
"""Of the 7B's random blocks."""


@dataclass(frozen=True)
class Kind:
    """A way to keep blocks."""

    name: str
    restored: Callable[[Tensor], Tensor]
    """The blocks ``[N, M, D]`` as they come back."""
    nbytes: Callable[[int, int], int]
    """Of one block of so many slots and numbers."""


def element_type(name: str) -> Kind:
    """One of the store's own."""
    return Kind(
        name,
        lambda vectors_NMD: torch.stack([decode(encode(block, name)) for block in vectors_NMD]),
        partial(encoded_bytes, name),
    )


@dataclass(frozen=True)
class Outcome:
    """What became of each question."""

    scores: list[list[float]]
    """Of its candidates' windows."""
    best: list[list[int]]
    """The windows that were read, best first."""
    answers: list[str]


# -- questions --------------------------------------------------------------------------------------------------------


def questions(file: str | None, count: int) -> list[Row]:
    """The first rows of a file, or clara-tiny's held-out questions with 20 candidates each."""
    if file is not None:
        return read_rows([file])[:count]
    sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
    from data import stage3_rows
    from world import World

    return [parse_row(row) for row in stage3_rows(World(20_001, held_out=True), count)]


def outcome(clara: Clara, rows: Sequence[Row], latents: Sequence[Latents]) -> Outcome:
    """Scores and answers from these latents."""
    asked = [row.questions[0] for row in rows]
    queries = clara.encode_queries(asked).vectors
    ranking = clara.model.config.ranking
    scores = [
        scores_in_parts(queries[place : place + 1], one.vectors, ranking=ranking)[0]
        for place, one in enumerate(latents)
    ]
    best = [one.topk(min(clara.top_k, len(one))).indices.tolist() for one in scores]
    answers = clara.answers(asked, list(latents), max_new_tokens=NEW_TOKENS)
    return Outcome([one.tolist() for one in scores], best, [one.text for one in answers])


def on_answers(clara: Clara, rows: Sequence[Row], kinds: Iterable[Kind]) -> None:
    """A line for the latents as they are, in float32, and for each kind against them."""
    exact = [clara.compress(list(row.documents)) for row in rows]
    before = outcome(clara, rows, exact)
    shape = exact[0].vectors.shape[1:]
    print(f"\n{len(rows)} questions, the best {clara.top_k} of {sum(map(len, exact)) / len(rows):.1f} blocks read\n")
    head = f"largest change of a score | same first | same best {clara.top_k} | right | F1 | same answer"
    print(f"| type | bytes of a block | {head} |\n|---|---|---|---|---|---|---|---|")
    print(f"| float32 | {encoded_bytes('float32', *shape):,} | {compared(before, before, rows)} |")
    for kind in kinds:
        after = outcome(clara, rows, [replace(one, vectors=kind.restored(one.vectors)) for one in exact])
        print(f"| {kind.name} | {kind.nbytes(*shape):,} | {compared(before, after, rows)} |", flush=True)


def compared(before: Outcome, after: Outcome, rows: Sequence[Row]) -> str:
    """The columns behind the bytes."""
    change = max(
        abs(new - old)
        for news, olds in zip(after.scores, before.scores, strict=True)
        for new, old in zip(news, olds, strict=True)
    )
    pairs = list(zip(after.best, before.best, strict=True))
    accepted = [list(row.references) for row in rows]
    shares = (
        sum(new[0] == old[0] for new, old in pairs),
        sum(set(new) == set(old) for new, old in pairs),
        sum(map(is_right, after.answers, accepted)),
        sum(score_answer(text, right)["f1"] for text, right in zip(after.answers, accepted, strict=True)),
        sum(new == old for new, old in zip(after.answers, before.answers, strict=True)),
    )
    return " | ".join([f"{change:.5f}", *(f"{share / len(rows):.3f}" for share in shares)])


# -- a 7B's shape -----------------------------------------------------------------------------------------------------


def random_blocks(count: int, seed: int = 0) -> Tensor:
    """Blocks with half of their strength in common, in bfloat16 as a 7B gives them; another seed, other blocks."""
    common = torch.randn(1, *SEVEN_B, generator=torch.Generator().manual_seed(0))
    own = torch.randn(count, *SEVEN_B, generator=torch.Generator().manual_seed(seed + 1))
    return (common + own).bfloat16()


def on_7b_shapes(kinds: Iterable[Kind], blocks: int = 500) -> None:
    """A line for each kind: scores of questions that lie near one block each."""
    vectors = random_blocks(blocks)
    noise = torch.randn(20, *SEVEN_B, generator=torch.Generator().manual_seed(12_345))
    asked = (vectors[:20].float() + noise).bfloat16()
    exact = cosine_scores(asked, vectors)
    best = exact.topk(BEST).indices.tolist()
    print(f"\n{blocks} random blocks of a 7B's shape\n")
    print(f"| type | bytes of a block | largest change of a score | same first | same best {BEST} |")
    print("|---|---|---|---|---|")
    for kind in kinds:
        scores = cosine_scores(asked, kind.restored(vectors))
        pairs = list(zip(scores.topk(BEST).indices.tolist(), best, strict=True))
        first, same = (sum(found) / len(pairs) for found in zip(*map(agreement, pairs), strict=True))
        change = (scores - exact).abs().max()
        print(f"| {kind.name} | {kind.nbytes(*SEVEN_B):,} | {change:.5f} | {first:.3f} | {same:.3f} |", flush=True)


def agreement(pair: tuple[list[int], list[int]]) -> tuple[bool, bool]:
    """Whether two lists begin alike, and whether they hold the same."""
    new, old = pair
    return new[0] == old[0], set(new) == set(old)


# -- the command ------------------------------------------------------------------------------------------------------


def arguments(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="clara-tiny", help="default: %(default)s")
    parser.add_argument("--rows", help="a file of questions with their candidates; by default clara-tiny's own")
    parser.add_argument("--questions", type=int, default=100, help="how many of them (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    args = arguments(__doc__)
    with Clara.load(args.model, dtype="float32", device="cpu", cache_bytes=0) as clara:
        on_answers(clara, questions(args.rows, args.questions), map(element_type, TYPES))
    if args.rows is None:
        on_7b_shapes(map(element_type, TYPES))


if __name__ == "__main__":
    main()

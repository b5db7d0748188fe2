"""Product quantisation of stored latents beside int8 and int4 at the same bytes: scores, rankings, error.

A codebook for each group of numbers is learned from other documents' slots (faiss, extra ``search``), as a store would
learn it from its first blocks; a slot is kept as its length and a byte for each group. ``int4, best scale`` is int4
with the scale of least squared error of a few in place of the largest number's: the store's reader reads both. Real
blocks are a checkpoint's of a file's candidates, scored as the checkpoint ranks; random ones have a 7B's shape.

    python examples/experiments/product_quantisation.py ../shared/data/eval/nq.jsonl [--questions 60]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import faiss
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from clara_model import ClaraModel
from clara_model.modeling.ranking import SCORES
from clara_model.store.encodings import decode, encode, encoded_bytes
from trainers.data.rows import read_rows

BEST, LEARNED = 5, 20_000
SHRUNK = torch.linspace(1.0, 0.5, 11)
"""Shares of the largest number that the best scale is looked for among."""
Quantise = Callable[[Tensor], Tensor]
"""Slots ``[S, D]`` to what a reader gets of them."""


def of_store(kind: str) -> Quantise:
    """An element type of the store; the scales are of single slots, so that all may be one block."""
    return lambda slots_SD: decode(encode(slots_SD, kind)).float()


def best_scale(slots_SD: Tensor) -> Tensor:
    """int4 with the scale of least squared error for each slot."""
    values, least = slots_SD.float(), torch.full((len(slots_SD), 1), float("inf"))
    best = torch.zeros_like(values)
    for share in SHRUNK:
        scale = values.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) * share / 7
        read = (values / scale).round().clamp(-7, 7) * scale
        error = (read - values).square().sum(dim=-1, keepdim=True)
        best, least = torch.where(error < least, read, best), torch.minimum(error, least)
    return best


def product(learn_SD: Tensor, group: int) -> Quantise:
    """A byte for each ``group`` numbers of a slot's direction, and its length."""
    width = learn_SD.shape[1]
    made = faiss.ProductQuantizer(width, width // group, 8)
    made.cp.niter = 10
    made.train(_directions(learn_SD)[0].numpy())

    def quantise(slots_SD: Tensor) -> Tensor:
        directions, lengths = _directions(slots_SD)
        return torch.from_numpy(made.decode(made.compute_codes(directions.numpy()))) * lengths

    return quantise


def _directions(slots_SD: Tensor) -> tuple[Tensor, Tensor]:
    lengths = slots_SD.float().norm(dim=-1, keepdim=True)
    return (slots_SD.float() / lengths.clamp_min(1e-12)).contiguous(), lengths


def ways(learn_SD: Tensor, width: int) -> Iterator[tuple[str, float, Quantise, float]]:
    """Name, bytes of a slot, how, and seconds of learning."""
    yield "int8", encoded_bytes("int8", 1, width), of_store("int8"), 0.0
    yield "int4", encoded_bytes("int4", 1, width), of_store("int4"), 0.0
    yield "int4, best scale", encoded_bytes("int4", 1, width), best_scale, 0.0
    for group in (1, 2, 4, 8):
        start = time.process_time()
        how = product(learn_SD, group)
        yield f"product, {group} to a byte", 4 + width // group, how, time.process_time() - start


def compare(
    title: str, learn_SD: Tensor, questions_BMD: Tensor, blocks_BKMD: Tensor, score: Callable[[Tensor, Tensor], Tensor]
) -> Table:
    """A table of every way, each against the blocks as they are; `blocks` of each question, or shared by all."""
    slots, width = blocks_BKMD.shape[-2:]
    exact_BK = scores(questions_BMD, blocks_BKMD, score)
    table = Table(title=title, title_justify="left")
    columns = "way|bytes of a block|error|mean change of a score|largest|same first|same best 5|learned in (CPU s)"
    for name in columns.split("|"):
        table.add_column(name)
    for name, nbytes, how, seconds in ways(learn_SD, width):
        kept = how(blocks_BKMD.reshape(-1, width)).view(blocks_BKMD.shape)
        error = float((kept - blocks_BKMD.float()).norm() / blocks_BKMD.float().norm())
        got_BK = scores(questions_BMD, kept.to(blocks_BKMD.dtype), score)
        change = (got_BK - exact_BK).abs()
        first = (got_BK.argmax(1) == exact_BK.argmax(1)).float().mean()
        pairs = zip(got_BK.topk(BEST).indices.tolist(), exact_BK.topk(BEST).indices.tolist(), strict=True)
        best = sum(set(one) == set(other) for one, other in pairs) / len(got_BK)
        table.add_row(
            name,
            f"{slots * nbytes:,}",
            *(f"{value:.4f}" for value in (error, change.mean(), change.max())),
            f"{first:.3f}",
            f"{best:.3f}",
            f"{seconds:.0f}" if seconds else "",
        )
    return table


def scores(questions_BMD: Tensor, blocks_BKMD: Tensor, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``[B, K]``, a question at a time."""
    rows = blocks_BKMD if blocks_BKMD.dim() == 4 else [blocks_BKMD] * len(questions_BMD)
    return torch.cat([score(one[None], row) for one, row in zip(questions_BMD, rows, strict=True)])


@torch.no_grad()
def real(model_name: str, file: str, count: int) -> Table:
    """A checkpoint's blocks of the candidates; the codebooks are learned from the rows behind those that are asked."""
    model = ClaraModel.from_pretrained(model_name, dtype=torch.float32, device="cpu")
    rows = [row for row in read_rows([file], prefer_gold=True) if len(row.documents) >= 20][: 3 * count]
    asked, others = rows[:count], rows[count:]
    known = {text for row in asked for text in row.documents}
    learn = [text for row in others for text in row.documents if text not in known]
    questions = torch.stack([model.encode_queries([row.questions[0]]).vectors[0] for row in asked])
    blocks = torch.stack([model.compress(row.documents[:20]).vectors for row in asked])
    slots_SD = model.compress(learn).vectors.flatten(0, 1)
    used = slots_SD[slots_SD.any(dim=-1)]
    used = used[torch.randperm(len(used), generator=torch.Generator().manual_seed(0))[:LEARNED]]
    title = f"{model_name}, {count} questions with 20 candidates, score {model.config.ranking}"
    return compare(title, used, questions, blocks, SCORES[model.config.ranking])


def random_7b(blocks: int = 500) -> Table:
    """Blocks with half of their strength in common, in bfloat16 as a 7B gives them; the question is near one."""
    draw = torch.Generator().manual_seed(0)
    common = torch.randn(1, 16, 4096, generator=draw)
    vectors = (common + torch.randn(blocks, 16, 4096, generator=draw)).bfloat16()
    learn = (common + torch.randn(LEARNED // 32, 16, 4096, generator=draw)).flatten(0, 1)
    questions = (vectors[:20].float() + torch.randn(20, 16, 4096, generator=draw)).bfloat16()
    title = f"{blocks} random blocks of 16 x 4,096 in bfloat16, cosine"
    return compare(title, learn, questions, vectors, SCORES["cosine"])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="rows with candidates")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--model", default="clara-small")
    args = parser.parse_args()
    console = Console(width=140)
    console.print(real(args.model, args.file, args.questions))
    console.print(random_7b())


if __name__ == "__main__":
    main()

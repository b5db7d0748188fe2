"""How well and how fast the search in a store finds what comparing with everything would find.

1. Recall@5, @20 and @100 of the search against exact cosines with every block:
   random blocks of a 7B's shape at rate 16 (16 x 4096), 20,000 and 100,000 of them, with 150 neighbours of each
   question planted among them, at cosines from far to near; and clara-tiny's own latents of documents from its made-up
   world. Random blocks are made when they are needed (100,000 are 13 GB); index, scan and rescoring are the store's.
2. Milliseconds of the coarse scan (what grows with the store) among 1,000 to 1,000,000 blocks, with recall at each
   size, and of the whole search with exact scores of the best 200 blocks of 128 KiB (which do not grow).
   Goal: p95 of the scan <= 10 ms at 1,000,000 on two cores, recall@100 >= 0.99. Then the scan where slots are compared
   (``ranking: late``), which grows with the slots of a block and of a question too.

3. With ``--store``, recall among the blocks that a real store holds, against its checkpoint's own score of every one.

    python examples/benchmarks/search.py                 # half an hour on two cores, 3 GB of memory, 1 GB of disk
    python examples/benchmarks/search.py --store qa-store --model clara-small --questions questions.txt   # only that
    python examples/benchmarks/search.py --scale 0.01    # a quick look; says nothing about the goals
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clara_model import Clara
from clara_model.modeling.ranking import cosine_scores, scores_in_parts
from clara_model.search.index import CoarseIndex, Reach
from clara_model.search.scan import nearest, nearest_by_slots
from clara_model.search.sketch import Array, rotation
from clara_model.search.store_search import CANDIDATES, LATE, StoreSearch
from clara_model.store import Block, Row, open_store

KS = (5, 20, 100)
PLANTED = 150
STEP = 8
"""Numbers between the beginnings of two blocks' noise: shifted white noise is as good as new noise, and is free."""
SHARED = 1.5
"""Strength of what all blocks have in common, against noise of 1."""
_AT_ONCE = 512


class Made:
    """As much of a store as a search needs; a block is made from its number whenever it is asked for.

    Shapes: ``Q`` questions, ``M x D`` one block. Block ``n`` is noise, what all have in common, and for the first
    ``PLANTED * Q`` of every run of blocks also a part of question ``n mod Q``, larger for some than for others.
    """

    identity, fingerprint, generation = "made", "made", 0

    def __init__(self, folder: Path, blocks: int, questions: int, slots: int, width: int) -> None:
        draw = torch.Generator().manual_seed(slots * width + blocks)
        self.url, self.blocks, self.shape = str(folder), blocks, (slots, width)
        size = slots * width
        self._noise = torch.randn(size + STEP * blocks, generator=draw)
        self._common = SHARED * torch.randn(size, generator=draw)
        self._topics = torch.randn(questions, size, generator=draw)
        self._every = max(1, blocks // (PLANTED * questions))
        self.questions_QMD = self._topics.add(self._common).view(questions, *self.shape)

    def vectors(self, numbers: Sequence[int]) -> Tensor:
        """``[N, M, D]`` bfloat16."""
        size = self.shape[0] * self.shape[1]
        made = torch.stack([self._noise[STEP * number : STEP * number + size] for number in numbers])
        for row, number in zip(made, numbers, strict=True):
            turn, rest = divmod(number, self._every)
            if rest == 0 and turn < PLANTED * len(self._topics):
                nearness, topic = divmod(turn, len(self._topics))
                share = 0.2 + 0.7 * nearness / PLANTED
                row.mul_((1 - share**2) ** 0.5).add_(self._topics[topic], alpha=share)
        return (made + self._common).view(-1, *self.shape).bfloat16()

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """As `DurableStore.rows`; numbers of a store begin at 1."""
        vectors = self.vectors([number - 1 for number in numbers])
        return [Row(number, str(number), Block(one, 256)) for number, one in zip(numbers, vectors, strict=True)]

    def iterate(self, after: int = 0) -> Iterator[Row]:
        """As `DurableStore.iterate`."""
        for start in range(after + 1, self.blocks + 1, _AT_ONCE):
            yield from self.rows(range(start, min(self.blocks + 1, start + _AT_ONCE)))

    @property
    def last_number(self) -> int:
        """As `DurableStore.last_number`."""
        return self.blocks

    def all_numbers(self) -> range:
        """As `DurableStore.all_numbers`."""
        return range(1, self.blocks + 1)

    def exact(self, top: int) -> list[list[int]]:
        """The numbers of the ``top`` best blocks of each question, by comparing with all."""
        scores = []
        for start in range(0, self.blocks, _AT_ONCE):
            part = self.vectors(range(start, min(self.blocks, start + _AT_ONCE)))
            scores.append(cosine_scores(self.questions_QMD, part))
        return (torch.cat(scores, dim=1).topk(min(top, self.blocks)).indices + 1).tolist()


def recall(found: Sequence[Sequence[object]], exact: Sequence[Sequence[object]]) -> dict[int, float]:
    """The share of the exact best ``k`` among the first ``k`` that were found, for each k; means over questions."""
    shares = {}
    for k in KS:
        pairs = zip(found, exact, strict=True)
        shares[k] = float(np.mean([len(set(one[:k]) & set(best[:k])) / min(k, len(best)) for one, best in pairs]))
    return shares


def shown(shares: dict[int, float]) -> str:
    return ", ".join(f"recall@{k} {share:.4f}" for k, share in shares.items())


def random_blocks(blocks: int, questions: int) -> None:
    """Recall among blocks of a 7B's shape."""
    with tempfile.TemporaryDirectory() as folder:
        made = Made(Path(folder), blocks, questions, 16, 4096)
        start = time.perf_counter()
        search = StoreSearch(made)  # type: ignore[arg-type]
        search.best(made.questions_QMD[0], 1)
        built = time.perf_counter() - start
        found = [[one.row.number for one in search.best(question, max(KS))] for question in made.questions_QMD]
        search.close()
        print(
            f"random, 16 x 4096, {blocks:>9,} blocks: {shown(recall(found, made.exact(max(KS))))}; index {built:.0f} s"
        )


def tiny_world(documents: int, questions: int) -> None:
    """Recall among clara-tiny's latents of documents of its world with names that it was not trained on."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
    from world import World

    world = World(20_001, held_out=True)
    entities = world.entities(documents)
    texts = list(dict.fromkeys(world.document(entity) for entity in entities))
    with tempfile.TemporaryDirectory() as folder, Clara.load("clara-tiny", store=folder, dtype="float32") as clara:
        latents = clara.compress(texts)
        found, exact = [], []
        for entity in entities[:: max(1, documents // questions)]:
            question = world.questions(entity, 1)[0][0]
            found.append([texts.index(str(one.text)) for one in clara.search(question, max(KS))])
            scores = cosine_scores(clara.encode_queries([question]).vectors, latents.vectors)[0]
            exact.append(scores.topk(min(max(KS), len(texts))).indices.tolist())
    print(f"clara-tiny, {len(texts):>22,} blocks: {shown(recall(found, exact))}")


def stored(folder: str, model: str, file: Path) -> None:
    """Recall among the blocks of a store, for the questions of a text file, one a line."""
    questions = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    with open_store(folder) as store, Clara.load(model, store=store, dtype="float32") as clara:
        found = [[one.text for one in clara.search(question, max(KS))] for question in questions]
        queries, texts, scores = clara.encode_queries(questions), [], []
        every = store.iterate()
        while rows := list(itertools.islice(every, _AT_ONCE)):
            texts += [row.block.text for row in rows]
            blocks = torch.stack([row.block.vector for row in rows]).float()
            scores.append(scores_in_parts(queries.vectors, blocks, ranking=clara.model.config.ranking))
    best = torch.cat(scores, dim=1).topk(max(KS)).indices.tolist()
    exact = [[texts[place] for place in one] for one in best]
    print(f"{model}, {len(texts):>21,} blocks, {len(questions)} questions: {shown(recall(found, exact))}")


def scans(index: CoarseIndex, reach: Reach, rotations_QR: Array, repeats: int) -> list[float]:
    """Milliseconds of each scan, with the index's files on the disk and read before."""
    os.sync()
    spent = []
    for turn in range(repeats + len(rotations_QR)):
        start = time.perf_counter()
        nearest(index, reach, rotations_QR[turn % len(rotations_QR)], CANDIDATES)
        spent.append(1000 * (time.perf_counter() - start))
    return spent[len(rotations_QR) :]


def scan_times(sizes: Sequence[int], questions: int, repeats: int) -> None:
    """Milliseconds of the coarse scan, and its recall, as the store grows."""
    for blocks in sizes:
        with tempfile.TemporaryDirectory() as folder:
            made = Made(Path(folder), blocks, questions, 2, 1024)
            index = CoarseIndex(Path(folder), made.identity)
            reach = index.update(made)  # type: ignore[arg-type]
            rotations = rotation(made.questions_QMD)
            spent, found = scans(index, reach, rotations, repeats), []
            for question in made.questions_QMD:
                numbers = nearest(index, reach, rotation(question[None])[0], max(CANDIDATES, 4 * max(KS))).tolist()
                scores = cosine_scores(question[None], made.vectors([number - 1 for number in numbers]))[0]
                found.append([numbers[place] for place in scores.argsort(descending=True).tolist()])
            index.close()
            p50, p95 = np.percentile(spent, (50, 95))
            quality = shown(recall(found, made.exact(max(KS))))
            print(f"scan of {blocks:>9,} blocks: p50 {p50:6.2f} ms, p95 {p95:6.2f} ms; {quality}")


def late_scans(blocks: int, repeats: int, slots: int = 16) -> None:
    """Milliseconds of the coarse scan for late interaction, with as many slots in a question as in a block."""
    with tempfile.TemporaryDirectory() as folder:
        made = Made(Path(folder), blocks, 20, slots, 512)
        index = CoarseIndex(Path(folder), made.identity, "late")
        reach = index.update(made)  # type: ignore[arg-type]
        spent = []
        for turn in range(repeats):
            start = time.perf_counter()
            nearest_by_slots(index, reach, made.questions_QMD[turn % 20], LATE * CANDIDATES)
            spent.append(1000 * (time.perf_counter() - start))
        index.close()
    p50, p95 = np.percentile(spent[1:], (50, 95))
    print(f"late interaction, scan of {blocks:,} blocks of {slots} slots for {slots} of a question: "
          f"p50 {p50:.1f} ms, p95 {p95:.1f} ms")  # fmt: skip


def rescoring(repeats: int) -> None:
    """Milliseconds of reading and scoring the candidates, from a store of 128 KiB blocks."""
    with tempfile.TemporaryDirectory() as folder, open_store(folder) as store:
        made = Made(Path(folder), 1000, 1, 16, 4096)
        for start in range(1, 1001, 100):
            rows = made.rows(range(start, start + 100))
            store.put("made", {f"{row.number:064x}": row.block for row in rows})
        search = StoreSearch(store)
        search.best(made.questions_QMD[0], 5)
        spent = []
        for _ in range(repeats):
            start_time = time.perf_counter()
            search.best(made.questions_QMD[0], 5)
            spent.append(1000 * (time.perf_counter() - start_time))
        search.close()
        print(f"whole search with exact scores of {CANDIDATES} blocks of 128 KiB out of 1,000: "
              f"p50 {np.percentile(spent, 50):.1f} ms, p95 {np.percentile(spent, 95):.1f} ms")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the blocks (default: 1)")
    parser.add_argument("--store", help="a folder that `clara compress` filled")
    parser.add_argument("--model", default="clara-small", help="whose store it is (default: %(default)s)")
    parser.add_argument("--questions", type=Path, help="what is asked of the store, a question a line")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.store:
        stored(args.store, args.model, args.questions)
        return
    scan_times([max(1000, int(size * args.scale)) for size in (1_000, 10_000, 100_000, 1_000_000)], 20, 200)
    late_scans(max(1000, int(20_000 * args.scale)), 20)
    rescoring(50)
    tiny_world(max(300, int(20_000 * args.scale)), 50)
    for blocks in (20_000, 100_000):
        random_blocks(max(1000, int(blocks * args.scale)), 20)


if __name__ == "__main__":
    main()

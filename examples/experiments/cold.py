"""What an answer from text costs in accuracy, where latents are not there yet: by the base alone, or by the generator?

Questions with 20 candidates each are answered from latents (`cold="compress"`), and from the best k passages as text
under the same prompt: the best by the words that they share with the question, or the first k as given; read by the
base model alone, or with the generator's adapter on. Prints exact match, F1, whether a right passage was among those
read, and CPU seconds of an answer whose candidates have no latents yet.

    python examples/experiments/cold.py clara-tiny [--count 50]                       # its own held-out questions
    python examples/experiments/cold.py clara-small --data shared/data/eval/nq.jsonl

Greedy, float32. Leaves out first stages of retrieval: the candidates' order is the file's.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
from data import stage3_rows
from world import World

from clara_model.inference.clara import Clara
from clara_model.inference.pipeline import Encoded
from clara_model.search.bm25 import BM25
from clara_model.validation import Generation
from trainers.data.row import Row, parse_row
from trainers.data.rows import read_rows
from trainers.evaluation.metrics import mean_scores, recall_at, score_answer

SEED, NEW_TOKENS = 20_001, 16
Way = Callable[[Row], tuple[str, list[int]]]
"""The answer to a row's question, and the passages that were read, best first."""


def ways(clara: Clara) -> dict[str, Way]:
    """Each way to answer, by its name in the table."""
    return {
        "latents": lambda row: from_latents(clara, row),
        "text, best by words, base alone": lambda row: from_text(clara, row, by_words(row), generator=False),
        "text, best by words, generator": lambda row: from_text(clara, row, by_words(row), generator=True),
        "text, as given, base alone": lambda row: from_text(clara, row, range(clara.top_k), generator=False),
        "text, as given, generator": lambda row: from_text(clara, row, range(clara.top_k), generator=True),
    }


def from_latents(clara: Clara, row: Row) -> tuple[str, list[int]]:
    answer = clara.answer(row.questions[0], row.documents, max_new_tokens=NEW_TOKENS)
    return answer.text, answer.selected


def by_words(row: Row) -> list[int]:
    scores = BM25(row.documents).shares(row.questions[0])
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def from_text(clara: Clara, row: Row, order: Sequence[int], *, generator: bool) -> tuple[str, list[int]]:
    tokens, config = clara.model.tokens, clara.model.config
    read = list(order[: clara.top_k])
    memory = "\n\n".join(row.documents[index] for index in read)
    ids = tokens.text_prompt_ids(config.prompts.answer, memory, row.questions[0])
    nothing = Encoded(torch.empty(0, config.memory_tokens, clara.model.base.config.hidden_size), ())
    written = clara.call().write([ids], [nothing] if generator else None, Generation(NEW_TOKENS))
    return written[0].text, read


def rows_of(args: argparse.Namespace) -> Iterator[Row]:
    """The questions, in a seeded order where they come from a file."""
    if args.data is None:
        rows = map(parse_row, stage3_rows(World(SEED, held_out=True), args.count))
        return iter(list(rows))
    rows = list(read_rows([str(args.data)], prefer_gold=True))
    random.Random(SEED).shuffle(rows)
    return iter(rows[: args.count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="clara-tiny")
    parser.add_argument("--data", type=Path, help="JSON lines with question, docs, answers and pos_index")
    parser.add_argument("--count", type=int, default=50)
    args = parser.parse_args()
    rows = list(rows_of(args))
    table = Table("way", "exact match", "F1", "a right passage read", "CPU seconds", box=None, pad_edge=False)
    with Clara.load(args.model, dtype="float32", device="cpu", cache_bytes=0) as clara:
        for name, way in ways(clara).items():
            started = time.process_time()
            found = [way(row) for row in rows]
            seconds = (time.process_time() - started) / len(rows)
            scores = mean_scores([score_answer(text.strip(), row.references)
                                  for (text, _), row in zip(found, rows, strict=True)])  # fmt: skip
            right = [recall_at(read, row.positives, len(read)) for (_, read), row in zip(found, rows, strict=True)]
            figures = (scores["em"], scores["f1"], sum(right) / len(right), seconds)
            table.add_row(name, *(f"{figure:.3f}" for figure in figures))
    console = Console(width=120)
    console.print(f"{args.model}, {len(rows)} questions of {args.data.name if args.data else 'its own'}")
    console.print(table)


if __name__ == "__main__":
    main()

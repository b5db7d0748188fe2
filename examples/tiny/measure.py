"""The figures on clara-tiny's card: 500 held-out questions, greedy, from a world of another seed with reserved names.

Reading the gold document as text (base model), the gold document compressed, another's in its place, 20 candidates with
the best 5 read; recall@5 as it was before stage 3, when the query reasoner was the compressor; five documents without
any ranking, the gold one at each place equally often: does the generator itself tell documents apart, and does it read
every place; and what BM25, a search by words, finds among the same 20. The questions come from a few pools of documents
(`data.GROUP` of them share one), so the intervals are those of a mean over pools.

    python examples/tiny/measure.py [CHECKPOINT] [--count 500] [--seed 20001] [--out figures.json]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from data import GROUP, READ, stage3_rows
from rich.console import Console
from rich.table import Table
from world import World

from clara_model import ClaraModel
from trainers.data.negatives import BM25Search
from trainers.data.row import Row
from trainers.evaluation.in_training import EvaluationConfig, Report, evaluate, wrong_memory
from trainers.evaluation.metrics import recall_at, score_answer
from trainers.evaluation.records import Record

SEED = 20_001
BATCH = 50
PLUS_MINUS = "_plus_minus"
"""Behind a figure's name: half of its 95 % interval."""
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""95 % quantiles of Student's distribution by degrees of freedom."""
BARS = {
    "base_text_em": 0.95,
    "gold_compressed_em": 0.90,
    "read_from_memory_f1": 0.85,
    "recall@5": 0.95,
    "ranked_em": 0.80,
}


def held_out(count: int = 500, seed: int = SEED) -> list[Row]:
    """Questions with 20 candidates each; no name in them occurs in training."""
    return [_row(row, i) for i, row in enumerate(stage3_rows(World(seed, held_out=True), count))]


def _row(row: dict, number: int) -> Row:
    return Row(
        documents=tuple(row["docs"]),
        questions=(row["question"],),
        answers=(row["gold_answer"],),
        kind="qa",
        positives=tuple(row["pos_index"]),
        references=(row["gold_answer"],),
        source=f"held-out question {number}",
    )


def unranked(row: Row, place: int, read: int = READ) -> Row:
    """The same question with ``read`` documents, the gold one at a given place among the first of the others."""
    (gold,) = row.positives
    chosen = [text for i, text in enumerate(row.documents) if i != gold][: read - 1]
    chosen.insert(place, row.documents[gold])
    return replace(row, documents=tuple(chosen), positives=(place,))


def text_em(model: ClaraModel, rows: list[Row]) -> float:
    """Exact match of the base model alone, reading each question's gold document as text."""
    prompt, right = model.config.prompts.answer, 0.0
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        ids = [model.tokens.text_prompt_ids(prompt, r.documents[r.positives[0]], r.questions[0]) for r in batch]
        texts = model.generate_plain(ids, max_new_tokens=16).texts
        right += sum(score_answer(text.strip(), row.references)["em"] for text, row in zip(texts, batch, strict=True))
    return right / len(rows)


def half_interval(values: Sequence[float], pool: int = GROUP) -> float:
    """Half of a mean's 95 % interval, where each ``pool`` values in a row hang together; NaN for a single pool."""
    pools = [values[start : start + pool] for start in range(0, len(values), pool)]
    if len(pools) < 2:
        return math.nan
    mean = sum(values) / len(values)
    off = sum((sum(part) - len(part) * mean) ** 2 for part in pools)
    error = math.sqrt(off * len(pools) / (len(pools) - 1)) / len(values)
    return STUDENT.get(len(pools) - 1, 2.0) * error


def with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """A mean and half of its interval."""
    half = half_interval(values)
    found = {name: sum(values) / len(values)}
    return found if math.isnan(half) else {**found, f"{name}{PLUS_MINUS}": half}


def bm25(rows: list[Row], k: int) -> list[float]:
    """Recall of a search by words among each question's candidates."""
    found = []
    for row in rows:
        (ranking,) = BM25Search(row.documents).nearest([row.questions[0]], k)
        found.append(recall_at(ranking, row.positives, k))
    return found


def figures(model: ClaraModel, rows: list[Row]) -> dict[str, float]:
    """All figures of the card."""

    def run(rows: list[Row], **options: object) -> Report:
        return evaluate(model, rows, EvaluationConfig(top_k=READ, max_new_tokens=16, **options))

    def of(name: str, report: Report, value: Callable[[Record], float]) -> dict[str, float]:
        return with_interval(name, [value(one) for one in report.records])

    def em(one: Record) -> float:
        return one.scores["em"]

    def recall(k: int) -> Callable[[Record], float]:
        return lambda one: recall_at(one.ranking, one.positives, k)

    gold, ranked = run(rows, read="gold", ranked_by="compressor"), run(rows, read="ranked")
    alone = [replace(row, documents=(row.documents[row.positives[0]],), positives=(0,)) for row in rows]
    wrong = run(wrong_memory(alone), read="gold", ranked_by="compressor")
    pairs = zip(gold.records, wrong.records, strict=True)
    apart = run([unranked(row, i % READ) for i, row in enumerate(rows)], read="first")
    texts = {text for row in rows for text in row.documents}
    tokens = sum(model.tokens.count(text) for text in texts) / len(texts)
    places = [[em(one) for one in apart.records[place::READ]] for place in range(READ)]
    return {
        "questions": float(len(rows)),
        "pools": float(-(-len(rows) // GROUP)),
        "tokens_per_document": tokens,
        "tokens_per_memory_token": tokens / model.config.memory_tokens,
        "base_text_em": text_em(model, rows),
        **of("gold_compressed_em", gold, em),
        **with_interval("read_from_memory_f1", [right.scores["f1"] - other.scores["f1"] for right, other in pairs]),
        **of("recall@5_before_stage_3", gold, recall(5)),
        **of("recall@1", ranked, recall(1)),
        **of("recall@5", ranked, recall(5)),
        **with_interval("bm25_recall@1", bm25(rows, 1)),
        **with_interval("bm25_recall@5", bm25(rows, 5)),
        **of("ranked_em", ranked, em),
        **of("five_unranked_em", apart, em),
        **{f"five_unranked_em_place_{n}": sum(found) / len(found) for n, found in enumerate(places, start=1)},
    }


def show(found: dict[str, float]) -> Table:
    """The figures beside their bars."""
    table = Table("figure", "measured", "±", "bar", "met")
    for name, value in found.items():
        bar, half = BARS.get(name), found.get(f"{name}{PLUS_MINUS}")
        met = "" if bar is None else ("yes" if value >= bar else "NO")
        shown = [f"{value:.3f}".rstrip("0").rstrip("."), "" if half is None else f"{half:.3f}"]
        if not name.endswith(PLUS_MINUS):
            table.add_row(name, *shown, "" if bar is None else f">= {bar}", met)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="clara-tiny")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument(
        "--seed", type=int, default=SEED, help="random seed of the held-out questions (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    args = parser.parse_args()
    model = ClaraModel.from_pretrained(args.checkpoint, dtype=torch.float32, device="cpu")
    found = {"seed": float(args.seed), **figures(model, held_out(args.count, args.seed))}
    Console().print(show(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

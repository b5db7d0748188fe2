"""The figures on clara-tiny's card: 500 held-out questions, greedy, from a world of another seed with reserved names.

Reading the gold document as text (base model), the gold document compressed, 20 candidates with the best 5 read;
recall@5 as it was before stage 3, when the query reasoner was the compressor; and five documents without any ranking,
the gold one at each place equally often: does the generator itself tell documents apart?

    python examples/tiny/measure.py [CHECKPOINT] [--count 500] [--seed 20001] [--out figures.json]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from data import READ, stage3_rows
from rich.console import Console
from rich.table import Table
from world import World

from clara_model import ClaraModel
from trainers.data.rows import Row
from trainers.evaluation.evaluate import EvaluationConfig, Report, evaluate
from trainers.evaluation.metrics import score_answer

SEED = 20_001
BATCH = 50
BARS = {"base_text_em": 0.95, "gold_compressed_em": 0.90, "recall@5": 0.95, "ranked_em": 0.80}


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


def unranked(row: Row, place: int) -> Row:
    """The same question with `READ` documents, the gold one at a given place among the first of the others."""
    (gold,) = row.positives
    chosen = [text for i, text in enumerate(row.documents) if i != gold][: READ - 1]
    chosen.insert(place, row.documents[gold])
    return replace(row, documents=tuple(chosen), positives=(place,))


def text_em(model: ClaraModel, rows: list[Row]) -> float:
    """Exact match of the base model alone, reading each question's gold document as text."""
    prompt, right = model.config.prompts.answer, 0.0
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        ids = [model.tokens.text_prompt_ids(prompt, r.documents[r.positives[0]], r.questions[0]) for r in batch]
        texts = model.generate_plain(ids, max_new_tokens=16).texts
        right += sum(score_answer(text.strip(), row.references).em for text, row in zip(texts, batch, strict=True))
    return right / len(rows)


def figures(model: ClaraModel, rows: list[Row]) -> dict[str, float]:
    """All figures of the card."""

    def run(rows: list[Row], **options: object) -> Report:
        return evaluate(model, rows, EvaluationConfig(top_k=READ, max_new_tokens=16, **options))

    gold, ranked = run(rows, read="gold", ranked_by="compressor"), run(rows, read="ranked")
    apart = run([unranked(row, i % READ) for i, row in enumerate(rows)], read="first")
    texts = {text for row in rows for text in row.documents}
    tokens = sum(model.tokens.count(text) for text in texts) / len(texts)
    return {
        "questions": float(len(rows)),
        "tokens_per_document": tokens,
        "tokens_per_memory_token": tokens / model.config.memory_tokens,
        "base_text_em": text_em(model, rows),
        "gold_compressed_em": gold.metrics["em"],
        "recall@5_before_stage_3": gold.metrics["recall@5"],
        "recall@1": ranked.metrics["recall@1"],
        "recall@5": ranked.metrics["recall@5"],
        "ranked_em": ranked.metrics["em"],
        "five_unranked_em": apart.metrics["em"],
    }


def show(found: dict[str, float]) -> Table:
    """The figures beside their bars."""
    table = Table("figure", "measured", "bar", "met")
    for name, value in found.items():
        bar = BARS.get(name)
        met = "" if bar is None else ("yes" if value >= bar else "NO")
        table.add_row(name, f"{value:.3f}".rstrip("0").rstrip("."), "" if bar is None else f">= {bar}", met)
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

"""How stage 3 learns to rank: ways of teaching the query reasoner of `clara-tiny`, from one start, seed and budget.

Every run starts from the bundled compressor and generator; the query reasoner is a copy of the compressor. Recall is of
240 held-out questions from 10 pools of 40 documents that steer nothing else; the share of right-signed gradients is of
the training rows (`trainers.training.callbacks`).

    python examples/experiments/ranking.py FOLDER [--steps 50] [--only NAME ..] [--start CHECKPOINT]

Everything is kept in the folder: a run that was stopped goes on, a finished one is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
from again import BUNDLED, start
from data import stage3_rows, write
from measure import held_out
from world import World

from clara_model import ClaraModel
from clara_model.inference import pipeline
from trainers.data.row import Row
from trainers.evaluation.in_training import EvaluationConfig, evaluate
from trainers.evaluation.metrics import ranking_means
from trainers.training.checkpointing import step_of, whole_checkpoints
from trainers.training.run import train
from trainers.training.train_config import TrainConfig, read_yaml

RECIPE = Path(__file__).parents[1] / "tiny" / "stage3.yaml"
SETTINGS: dict[str, dict[str, Any]] = {
    "the paper's estimator": {},
    "labels as warm-up": {"ranking_loss": "labels", "ranking_warmup": 20},
    "temperature from 0.5": {"temperature_start": 0.5},
    "query reasoner's rate 1e-4": {"query_learning_rate": 1e-4},
    "labels as a term, 0.3": {"ranking_loss": "labels", "ranking_weight": 0.3},
    "batch x 4": {"train_batch_size": 384, "micro_train_batch_size": 96},
    "likelihood as warm-up": {"ranking_loss": "likelihood", "ranking_warmup": 20},
    "likelihood as a term, 0.3": {"ranking_loss": "likelihood", "ranking_weight": 0.3},
    "likelihood as warm-up and term": {"ranking_loss": "likelihood", "ranking_warmup": 20, "ranking_weight": 0.3},
}
SEED, POOLS, OF_EACH = 20_100, 10, 24
EVERY = 10
"""Steps between two measurements of recall."""
ANSWERED = 96
"""Questions that are answered at the end."""


def questions() -> list[Row]:
    """Held-out questions with 20 candidates, from many pools."""
    return list(itertools.chain.from_iterable(held_out(OF_EACH, SEED + pool) for pool in range(POOLS)))


@torch.no_grad()
def recall(model: ClaraModel, rows: list[Row], candidates: list[pipeline.Candidates]) -> dict[str, float]:
    """Recall of the query reasoner, or of the compressor where there is none yet."""
    role = "query_reasoner" if "query_reasoner" in model.config.roles else "compressor"
    queries = pipeline.encode(model.eval(), role, [row.questions[0] for row in rows], "question")
    ranked = pipeline.rank(queries.vectors, candidates, model.config.ranking)
    rankings = [[one.index for one in ranking] for ranking in ranked]
    return ranking_means(rankings, [row.positives for row in rows])


def load(folder: Path) -> ClaraModel:
    """A checkpoint in float32 on the CPU."""
    return ClaraModel.from_pretrained(folder, dtype=torch.float32, device="cpu")


def run(name: str, folder: Path, steps: int, rows: list[Row], candidates: list[pipeline.Candidates]) -> dict[str, Any]:
    """Train with one setting, measure every `EVERY` steps' checkpoint, and answer at the end."""
    settings = {**read_yaml(RECIPE), **SETTINGS[name]}
    share = 96 / settings["train_batch_size"]  # the same number of rows
    steps, every = round(steps * share), max(1, round(EVERY * share))
    target = folder / name.replace(" ", "-")
    settings |= {
        "pretrain_checkpoint": str(start(folder / "start")),
        "dataset": str(folder / "stage3.jsonl"),
        "save_path": str(target),
        "max_steps": steps,
        "save_steps": every,
        "max_ckpt_num": 10_000,
        "logging_steps": every,
        "load_checkpoint": True,
        "use_cpu": True,
    }
    if not (target / "config.json").is_file():
        train(TrainConfig.for_stage(**settings))
    measured = {step_of(path): recall(load(path), rows, candidates) for path in whole_checkpoints(target)}
    log = [json.loads(line) for line in (target / "log.jsonl").read_text().splitlines()]
    answers = evaluate(load(target), rows[:ANSWERED], EvaluationConfig(top_k=5, max_new_tokens=16))
    return {"recall": measured, "log": log, "em": answers.metrics["em"]}


def signs(log: list[dict[str, float]], name: str) -> str:
    """The share's mean over the run."""
    found = [line[name] for line in log if name in line]
    return f"{sum(found) / len(found):.2f}" if found else "-"


def table(found: dict[str, dict[str, Any]], before: dict[str, float]) -> Table:
    """Recall at the start, at its lowest, at the end; signs; right answers."""
    made = Table(
        "setting", "recall@1: start", "lowest", "end", "recall@5: lowest", "end", "right sign: first", "later", "EM"
    )
    for name, one in found.items():
        at_1 = [measured["recall@1"] for measured in one["recall"].values()]
        at_5 = [measured["recall@5"] for measured in one["recall"].values()]
        figures = [before["recall@1"], min(at_1), at_1[-1], min(at_5), at_5[-1]]
        shares = [signs(one["log"], "right_signed_first"), signs(one["log"], "right_signed_later")]
        made.add_row(name, *[f"{value:.3f}" for value in figures], *shares, f"{one['em']:.3f}")
    return made


def main() -> None:
    """Make every run that is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=50, help="of 96 rows (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument(
        "--start", type=Path, default=BUNDLED, help="checkpoint to start from (default: the bundled one)"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.folder.mkdir(parents=True, exist_ok=True)
    if not (args.folder / "stage3.jsonl").is_file():
        write(args.folder / "stage3.jsonl", stage3_rows(World(1003), args.steps * 96))
    rows = questions()
    first = load(start(args.folder / "start", args.start))
    candidates = pipeline.compress(first, [row.documents for row in rows])
    found, before = {}, recall(first, rows, candidates)
    for name in args.only:
        path = args.folder / f"{name.replace(' ', '-')}.json"
        if not path.is_file():
            result = run(name, args.folder, args.steps, rows, candidates)
            path.write_text(json.dumps(result, indent=1))
        found[name] = json.loads(path.read_text())
        Console(width=150).print(table(found, before))


if __name__ == "__main__":
    main()

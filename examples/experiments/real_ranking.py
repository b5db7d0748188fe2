"""Stage 3 of `clara-small` on real questions: by the answer's loss alone, and after a warm-up on gold labels.

Both start from the bundled compressor and generator; the query reasoner is a copy of the compressor, as in any
stage 3. ``stage3.yaml`` and ``ranking.yaml`` are the recipe's. Measured on the NQ evaluation questions, 20 candidates
each: recall of all, F1 and exact match of the first of a seeded order from the best five.

    python examples/experiments/real_ranking.py ~/.cache/clara-small [--steps 10] [--warm_up 100]

The folder is `examples/small/train.py`'s; what was trained is kept in ``ranking`` there and not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "small"))
from measure import SHARED, drawn, read_latents

from clara_model import ClaraModel
from clara_model.checkpoint import files
from clara_model.inference import pipeline
from trainers.data.row import Row
from trainers.evaluation.metrics import ranking_means
from trainers.training.run import train
from trainers.training.train_config import TrainConfig, read_yaml

RECIPE = Path(__file__).parents[1] / "small"
ASKED, ANSWERED, SEED = 300, 60, 7


def load(folder: Path | str) -> ClaraModel:
    """A checkpoint in float32 on the CPU."""
    return ClaraModel.from_pretrained(folder, dtype=torch.float32, device="cpu")


def start(folder: Path) -> Path:
    """The bundled checkpoint without its query reasoner."""
    if not (folder / "config.json").is_file():
        model = load("clara-small")
        state = model.state()
        model.config = replace(model.config, roles=("compressor", "generator"))
        kept = {role: state.adapters[role] for role in model.config.roles}
        residual = {name: part for name, part in state.residual.items() if "query_reasoner" not in name}
        memory = {role: rows for role, rows in state.memory.items() if role in model.config.roles}
        files.write(replace(state, config=model.config, adapters=kept, residual=residual, memory=memory), folder)
    return folder


def trained(folder: Path, name: str, settings: str, before: Path, steps: int) -> Path:
    """A run of ``clara-train`` that goes on where it was stopped."""
    if not (folder / name / "config.json").is_file():
        values = {**read_yaml(RECIPE / settings), "prompts": str(RECIPE / "prompts.json"), "max_steps": steps}
        train(TrainConfig.for_stage(**values | {
            "pretrain_checkpoint": str(before),
            "dataset": str(folder.parent / "data" / "candidates.jsonl"),
            "save_path": str(folder / name),
            "load_checkpoint": True,
            "use_cpu": True,
        }))  # fmt: skip
    return folder / name


@torch.no_grad()
def measured(model: ClaraModel, rows: Sequence[Row]) -> dict[str, float]:
    """Recall of all rows' candidates, and the scores of the first rows' answers."""
    if "query_reasoner" not in model.config.roles:
        model.add_role("query_reasoner", copy_of="compressor")
    candidates = pipeline.compress(model.eval(), [row.documents for row in rows])
    queries = pipeline.encode(model, "query_reasoner", [row.questions[0] for row in rows], "question")
    ranked = pipeline.rank(queries.vectors, candidates, model.config.ranking)
    recalls = ranking_means([[one.index for one in ranking] for ranking in ranked], [row.positives for row in rows])
    answers = read_latents(model, rows[:ANSWERED], "ranked").metrics
    return {**{f"recall@{k}": recalls[f"recall@{k}"] for k in (1, 5)}, "f1": answers["f1"], "em": answers["em"]}


def table(found: dict[str, dict[str, Any]]) -> Table:
    """A line for each checkpoint."""
    made = Table("query reasoner", "recall@1", "recall@5", "F1", "EM")
    for name, one in found.items():
        made.add_row(name, *[f"{one[key]:.3f}" for key in ("recall@1", "recall@5", "f1", "em")])
    return made


def main() -> None:
    """Train what is not there yet, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=10, help="of 16 questions, by the answer's loss")
    parser.add_argument("--warm_up", type=int, default=100, help="of 32 questions, by gold labels")
    args = parser.parse_args()
    kept, rows, found = args.folder / "ranking", drawn(SHARED / "eval" / "nq.jsonl", ASKED, SEED), {}
    before = start(kept / "start")
    runs = {
        "a copy of the compressor": lambda: before,
        "answer's loss alone": lambda: trained(kept, "answer", "stage3.yaml", before, args.steps),
        "gold labels alone": lambda: trained(kept, "labels", "ranking.yaml", before, args.warm_up),
        "gold labels, then the answer's loss": lambda: trained(
            kept, "warm", "stage3.yaml", kept / "labels", args.steps
        ),
        "clara-small as bundled": lambda: "clara-small",
    }
    for name, run in runs.items():
        path = kept / f"{name.replace(' ', '-')}.json"
        if not path.is_file():
            path.write_text(json.dumps(measured(load(run()), rows), indent=1) + "\n")
        found[name] = json.loads(path.read_text())
        Console(width=100).print(table(found))


if __name__ == "__main__":
    main()

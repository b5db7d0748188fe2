"""Does the generator read every place? Stage 2 of `clara-tiny` with documents in random order, from one start and seed.

Every run goes on from the bundled compressor and generator. Measured on 240 held-out questions from 10 pools with five
documents that nobody ranked, the right one at each place equally often (`measure.unranked`); of the same kind as the
pools of `data.py`, which are mixed.

    python examples/experiments/places.py FOLDER [--steps 100] [--only NAME ..]

Everything is kept in the folder: a run that was stopped goes on, a finished one is not made again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
from again import start
from data import READ, stage2_rows, write
from measure import unranked
from ranking import load, questions
from rich.console import Console
from rich.table import Table
from world import World

from clara_model import ClaraModel
from trainers.arguments import TrainConfig, read_yaml
from trainers.data.row import Row
from trainers.evaluation.evaluate import EvaluationConfig, evaluate
from trainers.run import train

RECIPE = Path(__file__).parents[1] / "tiny" / "stage2.yaml"


@dataclass(frozen=True)
class Setting:
    """A way to show the documents."""

    alike: float
    """Share of pools whose documents are all of one kind, so that only names tell them apart."""
    shuffled: float
    """Share of rows in random order."""
    told: float = 0.0
    """Share of rows that ask for all facts of a document."""


SETTINGS = {
    "found order, pools of one kind": Setting(0.8, 0.0),
    "half shuffled, pools of one kind": Setting(0.8, 0.5),
    "half shuffled, mixed pools": Setting(0.3, 0.5),
    "all shuffled, mixed pools": Setting(0.3, 1.0),
    "all shuffled, mixed pools, much told": Setting(0.3, 1.0, 0.4),
}


def by_place(model: ClaraModel, rows: list[Row]) -> list[float]:
    """Exact match with the right document at each of the five places."""
    asked = [unranked(row, number % READ) for number, row in enumerate(rows)]
    found = evaluate(model, asked, EvaluationConfig(top_k=READ, max_new_tokens=16, read="first")).predictions
    places = [[one.scores.em for one in found[place::READ]] for place in range(READ)]
    return [sum(place) / len(place) for place in places]


def alone(model: ClaraModel, rows: list[Row]) -> float:
    """Exact match with the right document only."""
    config = EvaluationConfig(top_k=1, max_new_tokens=16, read="gold", ranked_by="compressor")
    return evaluate(model, rows, config).metrics["em"]


def run(name: str, folder: Path, steps: int) -> Path:
    """Train with one setting."""
    setting, target = SETTINGS[name], folder / name.replace(" ", "-").replace(",", "")
    data = folder / f"stage2-{setting.alike}-{setting.told}.jsonl"
    if not data.is_file():
        write(data, stage2_rows(World(1002), steps * 96, alike=setting.alike, told=setting.told))
    settings = read_yaml(RECIPE) | {
        "pretrain_checkpoint": str(start(folder / "start")),
        "dataset": str(data),
        "save_path": str(target),
        "shuffle_documents": setting.shuffled,
        "save_steps": 10,
        "logging_steps": 10,
        "load_checkpoint": True,
        "use_cpu": True,
    }
    return train(TrainConfig.for_stage(**settings))


def main() -> None:
    """Make every run that is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=100, help="of 96 rows (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.folder.mkdir(parents=True, exist_ok=True)
    rows, path = questions(), args.folder / "places.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for name in ["before", *args.only]:
        if name not in found:
            model = load(start(args.folder / "start") if name == "before" else run(name, args.folder, args.steps))
            found[name] = [*by_place(model, rows), alone(model, rows)]
            path.write_text(json.dumps(found, indent=1))
        table = Table("stage 2", *[f"place {place}" for place in range(1, READ + 1)], "alone")
        for one, figures in found.items():
            table.add_row(one, *[f"{value:.3f}" for value in figures])
        Console(width=150).print(table)


if __name__ == "__main__":
    main()

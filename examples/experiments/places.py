"""Does the generator read every place? Stages 2 and 3 of `clara-tiny` with documents in random order.

Every run of stage 2 goes on from the bundled compressor and generator, with one seed. `--climb` trains stage 3 instead,
from the whole bundle: two documents first, both orders equally often, and three and five only once every place of
fewer is read (150 questions); then five until the minutes are used up. Stage 2 is measured on 240 held-out questions
from 10 pools with five documents that nobody ranked, the right one at each place equally often (`measure.unranked`); of
the same kind as the pools of `data.py`, which are mixed.

    python examples/experiments/places.py FOLDER [--steps 100] [--only NAME ..]
    python examples/experiments/places.py FOLDER --climb [--minutes 30]

Everything is kept in the folder: a run that was stopped goes on, a finished one is not made again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
from again import BUNDLED, start
from data import READ, stage2_rows, stage3_rows, write
from measure import unranked
from ranking import load, questions
from rich.console import Console
from rich.table import Table
from world import World

from clara_model import ClaraModel
from trainers.data.row import Row
from trainers.evaluation.in_training import EvaluationConfig, evaluate
from trainers.training.run import train
from trainers.training.train_config import TrainConfig, read_yaml

TINY = Path(__file__).parents[1] / "tiny"
RECIPE = TINY / "stage2.yaml"
CLIMB, LEG, GROUP, ASKED = (2, 3, READ), 100, 48, 150
"""Documents of the climb's steps; training steps between two looks; rows of a step; held-out questions."""
READ_ENOUGH, GIVEN_UP = 0.8, 10.0
"""Share of the first place's exact match at which a place counts as read; CPU minutes that two documents may take."""


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


def by_place(model: ClaraModel, rows: list[Row], read: int = READ) -> list[float]:
    """Exact match with the right document at each of ``read`` places."""
    asked = [unranked(row, number % read, read) for number, row in enumerate(rows)]
    found = evaluate(model, asked, EvaluationConfig(top_k=read, max_new_tokens=16, read="first")).records
    places = [[one.scores["em"] for one in found[place::read]] for place in range(read)]
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


def climb(folder: Path, minutes: float) -> None:
    """Stage 3 from two documents to five, a leg at a time, until the CPU minutes are used up; a table after each."""
    rows, path = questions()[:ASKED], folder / "climb.json"
    legs: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    while True:
        used = sum(leg["seconds"] for leg in legs) / 60
        read = legs[-1]["documents"] if legs else CLIMB[0]
        if legs and read < CLIMB[-1] and min(legs[-1]["places"]) >= READ_ENOUGH * legs[-1]["places"][0]:
            read = CLIMB[CLIMB.index(read) + 1]
        if used >= minutes or (read == CLIMB[0] and used >= GIVEN_UP):
            return
        began, name = time.process_time(), f"leg-{len(legs) + 1}"
        before = folder / f"leg-{len(legs)}" if legs else BUNDLED
        model = load(leg(folder / name, before, read, len(legs)))
        found = {"documents": read, "places": by_place(model, rows, read), "of five": by_place(model, rows)}
        legs.append({**found, "alone": alone(model, rows), "seconds": time.process_time() - began})
        path.write_text(json.dumps(legs, indent=1))
        show_climb(legs)


def leg(target: Path, before: Path, read: int, number: int) -> Path:
    """Some steps of stage 3 with so many documents, each row in random order."""
    data = target.with_suffix(".jsonl")
    if not data.is_file():
        write(data, stage3_rows(World(2_000 + number), LEG * GROUP, candidates=read))
    settings = read_yaml(TINY / "stage3.yaml") | {
        "pretrain_checkpoint": str(before),
        "dataset": str(data),
        "save_path": str(target),
        "generation_top_k": read,
        "shuffle_documents": 1.0,
        "train_batch_size": GROUP,
        "learning_rate": 1e-3,
        "lr_scheduler": "constant",
        "save_steps": 50,
        "logging_steps": 20,
        "load_checkpoint": True,
        "use_cpu": True,
        "seed": 30 + number,
    }
    return train(TrainConfig.for_stage(**settings))


def show_climb(legs: list[dict[str, Any]]) -> None:
    """A row for each leg."""
    table = Table("steps", "documents", "by place", "of five, by place", "alone", "CPU minutes")
    for number, one in enumerate(legs, start=1):
        places = [" ".join(f"{value:.2f}" for value in one[name]) for name in ("places", "of five")]
        minutes = sum(earlier["seconds"] for earlier in legs[:number]) / 60
        table.add_row(str(number * LEG), str(one["documents"]), *places, f"{one['alone']:.2f}", f"{minutes:.1f}")
    Console(width=150).print(table)


def main() -> None:
    """Make every run that is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=100, help="of 96 rows (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--climb", action="store_true", help="stage 3 from two documents to five instead")
    parser.add_argument("--minutes", type=float, default=30.0, help="CPU minutes of the climb (default: %(default)s)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.climb:
        return climb(args.folder, args.minutes)
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

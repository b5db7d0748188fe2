"""Train clara-tiny's stages 2 and 3 from a checkpoint, so that its generator reads every place.

    python examples/tiny/again.py [CHECKPOINT] [--only data|names|stage3|measure|seeds] [--share 1.0]

`train.py` does so with the end of stage 1; by default it is the bundled one. Its generator and then its compressor too
learn names (`names.py`). In stage 3 the query reasoner starts as that compressor again: some steps on labels alone,
then the paper's estimator with the labels as a term. Everything goes to ``~/.cache/clara-tiny/again``; a run that was
stopped goes on when the command is given again. The result is measured as the card does, with a word for each figure
whether it is better; two runs of stage 3 with other seeds and rows follow. Nothing is bundled (`package.py` does that).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from names import RUNS_BY_NAME, teach

from clara_model.checkpoint import files
from clara_model.checkpoint.base_model import resolve_base

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("examples/tiny")
RUNS = Path(os.environ.get("CLARA_TINY", Path.home() / ".cache" / "clara-tiny")) / "again"
BUNDLED = files.BUNDLED / "clara-tiny"
DATA = {"stage1": 0, "stage2": 0}
STAGE3 = {
    "ranking_loss": "labels",
    "ranking_warmup": 50,
    "ranking_weight": 1.0,
    "shuffle_documents": 0.2,
    "query_learning_rate": 1e-3,
    "learning_rate": 5e-4,
    "logging_steps": 10,
}
"""Without the labels as a term the ranking is lost again after names were learned (docs/experiments). A ranking that is
nearly always right would teach the generator to read the first place alone, so some rows are read in random order."""
SEEDS = (4, 5)
"""Of the other runs, whose rows differ too."""
STEPS = ("data", "names", "stage3", "measure", "seeds")


def start(target: Path, checkpoint: Path = BUNDLED) -> Path:
    """A checkpoint without its query reasoner, its base beside it, so that the bundle may be replaced."""
    if not (target / files.CONFIG).is_file():
        state = files.read(checkpoint)
        roles = ("compressor", "generator")
        found = resolve_base(state.config.base_model, checkpoint)
        base = shutil.copytree(found, target / "base", dirs_exist_ok=True)
        state.config = replace(state.config, roles=roles, base_model=str(base))
        state.adapters = {role: state.adapters[role] for role in roles}
        state.memory = {role: rows for role, rows in state.memory.items() if role in roles}
        files.write(state, target)
    return target


def run(*arguments: str | Path) -> None:
    """Run Python with these arguments from the project's root."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=ROOT)


def words(options: Mapping[str, object]) -> list[str]:
    """Options as on a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def train(recipe: str, rows: Path, name: str, begin: Path, settings: Mapping[str, object]) -> None:
    """A stage, or the rest of it."""
    if (RUNS / name / files.CONFIG).is_file():
        return
    paths = ["--pretrain_checkpoint", begin, "--dataset", rows, "--save_path", RUNS / name]
    config = ["--config", HERE / recipe, "--load_checkpoint"]
    run("-m", "trainers.training.cli", *config, *paths, *words(settings))


def taught() -> Path:
    """Where stage 3 starts: what has learned names, its query reasoner the compressor again."""
    return start(RUNS / "taught", RUNS / list(RUNS_BY_NAME)[-1])


def compare(new: dict[str, float], card: Path) -> list[str]:
    """One line for each figure of the card: old, new, and which is better."""
    lines = [line.split("|") for line in card.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    stated = {cells[1].strip(): float(cells[2]) for cells in lines if cells[2].strip().replace(".", "").isdigit()}
    found = []
    for name, old in stated.items():
        if name in new and not name.startswith(("tokens", "bm25", "base")):
            verdict = "better" if new[name] > old else "equal" if round(new[name], 3) == old else "WORSE"
            found.append(f"{name}: {old:.3f} on the card, {new[name]:.3f} now: {verdict}")
    return found


def make(rows: str, options: Mapping[str, object]) -> None:
    """Write a folder of rows, unless it is there."""
    if not (RUNS / rows / "heldout_20.jsonl").is_file():
        run(HERE / "data.py", RUNS / rows, *words(options))


def measured(name: str) -> dict[str, float]:
    """A run's figures, measured unless they are there."""
    path = RUNS / name / "figures.json"
    if not path.is_file():
        run(HERE / "measure.py", RUNS / name, "--out", path)
    return json.loads(path.read_text())


def main() -> None:
    """All steps, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=BUNDLED, help="where to start (default: bundled)")
    parser.add_argument("--only", choices=STEPS, help="one step (default: all in order)")
    parser.add_argument("--share", type=float, default=1.0, help="of all steps and rows (default: %(default)s)")
    arguments = parser.parse_args()
    begin = start(RUNS / "start", arguments.checkpoint)
    for step in [arguments.only] if arguments.only else STEPS:
        if step == "data":
            make("data", {**DATA, "share": arguments.share})
        elif step == "names":
            teach(begin, RUNS, train, arguments.share)
        elif step == "stage3":
            train("stage3.yaml", RUNS / "data" / "stage3.jsonl", "stage3", taught(), STAGE3)
        elif step == "measure":
            print(*compare(measured("stage3"), BUNDLED / "README.md"), sep="\n")
        elif step == "seeds":
            other_seeds(taught(), arguments.share)


def other_seeds(begin: Path, share: float) -> None:
    """The same with other seeds and rows, and the figures of all beside each other."""
    found = [measured("stage3")]
    for seed in SEEDS:
        make(f"data-{seed}", {**DATA, "share": share, "seed": 100 + seed})
        rows = RUNS / f"data-{seed}" / "stage3.jsonl"
        train("stage3.yaml", rows, f"stage3-{seed}", begin, {**STAGE3, "seed": seed})
        found.append(measured(f"stage3-{seed}"))
    for name in ("gold_compressed_em", "ranked_em", "recall@1", "recall@5", "five_unranked_em"):
        print(name, *[f"{figures[name]:.3f}" for figures in found])


if __name__ == "__main__":
    main()

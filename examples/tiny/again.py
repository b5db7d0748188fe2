"""Train clara-tiny's stages 2 and 3 anew from its bundled base and compressor, with documents in random order.

    python examples/tiny/again.py [--only data|stage2|stage3|measure]

The settings are those for the next bundle; `train.py` and its YAML files are what the bundled one was made with. Stage
2 goes on from the bundled compressor and generator: pools of mixed kinds, half of the rows in random order. Stage 3
starts its query reasoner as that compressor. Everything goes to ``~/.cache/clara-tiny/again``; a run that was stopped
goes on when the command is given again. The last step measures the result as the card does and says of each figure
whether it is better; nothing is bundled (`package.py` does that).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from clara_model.checkpoint import files

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("examples/tiny")
RUNS = Path.home() / ".cache" / "clara-tiny" / "again"
BUNDLED = files.BUNDLED / "clara-tiny"
ALIKE = 0.3
"""Share of pools whose documents are of one kind; in the rest the kind asked for tells many of them apart."""
STAGE2 = {"shuffle_documents": 0.5}
STAGE3 = {"shuffle_documents": 0.5, "ranking_loss": "labels", "ranking_warmup": 20}
"""The best ranking of those that were compared (docs/results.md)."""
STEPS = ("data", "stage2", "stage3", "measure")


def start(target: Path) -> Path:
    """The bundled checkpoint without its query reasoner, its base named by where it lies."""
    if not (target / files.CONFIG).is_file():
        state = files.read(BUNDLED)
        roles = ("compressor", "generator")
        state.config = replace(state.config, roles=roles, base_model=str(BUNDLED / "base"))
        state.adapters = {role: state.adapters[role] for role in roles}
        state.memory = {role: rows for role, rows in state.memory.items() if role in roles}
        files.write(state, target)
    return target


def run(*arguments: str | Path) -> None:
    """Run Python with these arguments from the project's root."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=ROOT)


def train(stage: str, begin: Path, settings: dict[str, object]) -> None:
    """One stage, or the rest of it."""
    if (RUNS / stage / files.CONFIG).is_file():
        return
    paths = ["--pretrain_checkpoint", begin, "--dataset", RUNS / "data" / f"{stage}.jsonl", "--save_path", RUNS / stage]
    more = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    run("-m", "trainers.cli", "--config", HERE / f"{stage}.yaml", "--load_checkpoint", "--use_cpu", *paths, *more)


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


def main() -> None:
    """All steps, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=STEPS, help="one step (default: all in order)")
    chosen = parser.parse_args().only
    for step in [chosen] if chosen else STEPS:
        if step == "data" and not (RUNS / "data" / "heldout_20.jsonl").is_file():
            run(HERE / "data.py", RUNS / "data", "--alike", ALIKE, "--stage1", 0, "--stage1-again", 0)
        elif step == "stage2":
            train("stage2", start(RUNS / "start"), STAGE2)
        elif step == "stage3":
            train("stage3", RUNS / "stage2", STAGE3)
        elif step == "measure":
            run(HERE / "measure.py", RUNS / "stage3", "--out", RUNS / "figures.json")
            figures = json.loads((RUNS / "figures.json").read_text())
            print(*compare(figures, BUNDLED / "README.md"), sep="\n")


if __name__ == "__main__":
    main()

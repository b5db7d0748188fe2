"""Make clara-tiny from nothing, in one command: base, data, stages, bundle, figures. A stopped run goes on.

    python examples/tiny/train.py

After the three stages, `again.py` trains the second and the third once more from their own result. Everything but the
bundle goes to ``~/.cache/clara-tiny``, so a run that was stopped goes on from another checkout too. A step whose result
is there is not done again; remove the folder to start over. It takes some hours on two CPU cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("examples/tiny")
RUNS = Path.home() / ".cache" / "clara-tiny"
STAGE_RUNS = (
    ("stage1", "stage1", "--pretrain", "base"),
    ("stage1_again", "stage1", "--pretrain_checkpoint", "stage1"),
    ("stage2", "stage2", "--pretrain_checkpoint", "stage1_again"),
    ("stage3", "stage3", "--pretrain_checkpoint", "stage2"),
)
"""Each run's name, which its data and its result have too; its settings; and where it starts.

Stage 1 runs twice: from a fresh rate it learns what the first run left (docs/results.md).
"""


def run(*arguments: str | Path) -> None:
    """Run Python with these arguments from the project's root."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=ROOT)


def done(path: Path) -> bool:
    """Whether a step's last file is there."""
    return path.is_file()


def main() -> None:
    """All steps in order."""
    if not done(RUNS / "base" / "finished"):
        run(HERE / "base.py")
        (RUNS / "base" / "finished").touch()
    if not done(RUNS / "data" / "heldout_20.jsonl"):
        run(HERE / "data.py", RUNS / "data")
    for name, settings, flag, start in STAGE_RUNS:
        if not done(RUNS / name / "config.json"):
            paths = [flag, RUNS / start, "--dataset", RUNS / "data" / f"{name}.jsonl", "--save_path", RUNS / name]
            run("-m", "trainers.cli", "--config", HERE / f"{settings}.yaml", "--load_checkpoint", *paths)
    for step in ("data", "names", "stage3"):
        run(HERE / "again.py", RUNS / "stage3", "--only", step)
    run(HERE / "package.py", RUNS / "again" / "stage3", RUNS / "base")
    run(HERE / "measure.py", "clara-tiny", "--out", RUNS / "figures.json")
    run(HERE / "package.py", RUNS / "again" / "stage3", RUNS / "base", "--figures", RUNS / "figures.json")


if __name__ == "__main__":
    main()

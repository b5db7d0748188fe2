"""Make clara-tiny from nothing, in one command: base, data, stages, bundle, figures. A stopped run goes on.

    python examples/tiny/train.py [--target FOLDER] [--share 1.0]

Stages 2 and 3 are those of `again.py`. Everything but the bundle goes to ``~/.cache/clara-tiny``, so a run that was
stopped goes on from another checkout too. A step whose result is there is not done again; remove the folder to start
over. It takes 2.3 hours on two CPU cores with bfloat16 (docs/experiments); ``--share 0.001`` walks through all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "clara_model" / "bundled" / "clara-tiny"
HERE = Path("examples/tiny")
RUNS = Path.home() / ".cache" / "clara-tiny"


def run(*arguments: str | Path) -> None:
    """Run Python with these arguments from the project's root."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=ROOT)


def done(path: Path) -> bool:
    """Whether a step's last file is there."""
    return path.is_file()


def main() -> None:
    """All steps in order, or a share of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=BUNDLED, help="where the model is put (default: bundled)")
    parser.add_argument("--share", type=float, default=1.0, help="of all steps, rows and questions (default: 1)")
    args = parser.parse_args()
    target, share, questions = args.target.resolve(), ("--share", str(args.share)), max(10, round(500 * args.share))
    if not done(RUNS / "base" / "finished"):
        run(HERE / "base.py", "--count", str(questions), *share)
        (RUNS / "base" / "finished").touch()
    if not done(RUNS / "data" / "heldout_20.jsonl"):
        run(HERE / "data.py", RUNS / "data", "--stage2", "0", "--stage3", "0", *share)
    if not done(RUNS / "stage1" / "config.json"):
        rows = ("--dataset", RUNS / "data" / "stage1.jsonl")
        paths = ("--load_checkpoint", "--pretrain", RUNS / "base", *rows, "--save_path", RUNS / "stage1")
        run("-m", "trainers.training.cli", "--config", HERE / "stage1.yaml", *paths)
    for step in ("data", "names", "stage3"):
        run(HERE / "again.py", RUNS / "stage1", "--only", step, *share)
    bundle = (HERE / "package.py", RUNS / "again" / "stage3", RUNS / "base", "--target", target)
    run(*bundle)
    run(HERE / "measure.py", target, "--count", str(questions), "--out", RUNS / "figures.json")
    run(*bundle, "--figures", RUNS / "figures.json")


if __name__ == "__main__":
    main()

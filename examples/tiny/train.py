"""Make clara-tiny from nothing, in one command: base, data, stages, bundle, figures. A stopped run goes on.

    python examples/tiny/train.py [--target FOLDER] [--share 1.0] [--size 8m]

Stages 2 and 3 are those of `again.py`. Everything but the bundle goes to ``~/.cache/clara-tiny`` (``clara-tiny-8m``: a
base of 8 million parameters in place of 2), so a run that was stopped goes on from another checkout too. A step whose
result is there is not done again; remove the folder to start over. It takes 2.3 hours on two CPU cores with bfloat16
(docs/experiments); ``--share 0.001`` walks through all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "clara_model" / "bundled" / "clara-tiny"
HERE = Path("examples/tiny")
RUNS = Path.home() / ".cache" / "clara-tiny"
SIZES = {"2m": (), "8m": ("--hidden", "320", "--layers", "6", "--heads", "8", "--inner", "864")}
"""Of the base."""


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
    parser.add_argument("--size", choices=tuple(SIZES), default="2m", help="of the base (default: %(default)s)")
    args = parser.parse_args()
    if args.size != "2m" and args.target == BUNDLED:
        parser.error("what is bundled is made with --size 2m; name another --target")
    runs = RUNS if args.size == "2m" else RUNS.with_name(f"clara-tiny-{args.size}")
    os.environ["CLARA_TINY"] = str(runs)  # for again.py
    target, share, questions = args.target.resolve(), ("--share", str(args.share)), max(10, round(500 * args.share))
    if not done(runs / "base" / "finished"):
        run(HERE / "base.py", "--folder", runs / "base", "--count", str(questions), *SIZES[args.size], *share)
        (runs / "base" / "finished").touch()
    if not done(runs / "data" / "heldout_20.jsonl"):
        run(HERE / "data.py", runs / "data", "--stage2", "0", "--stage3", "0", *share)
    if not done(runs / "stage1" / "config.json"):
        rows = ("--dataset", runs / "data" / "stage1.jsonl")
        paths = ("--load_checkpoint", "--pretrain", runs / "base", *rows, "--save_path", runs / "stage1")
        run("-m", "trainers.training.cli", "--config", HERE / "stage1.yaml", *paths)
    for step in ("data", "names", "stage3"):
        run(HERE / "again.py", runs / "stage1", "--only", step, *share)
    bundle = (HERE / "package.py", runs / "again" / "stage3", runs / "base", "--target", target)
    run(*bundle)
    run(HERE / "measure.py", target, "--count", str(questions), "--out", runs / "figures.json")
    run(*bundle, "--figures", runs / "figures.json")


if __name__ == "__main__":
    main()

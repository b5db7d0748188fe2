"""What a `clara ask` costs from a cold start: CPU seconds and modules of whole processes, by turns.

    python examples/benchmarks/start.py [--runs 5]    # half a minute on an idle core

A question to one file with clara-tiny, whose latents an earlier question has kept: as the installed command does it,
the same with everything that transformers brings along (as a program that imports `clara_model` has it), and `import
torch` alone, which both contain. Leaves out the steps of an answer (`before_after.py`).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
ASK = ["ask", "Where was Ranvun Mepos born?", "--docs", "notes.txt", "--model", "clara-tiny", "--quiet"]
COMMAND = f"import sys; sys.argv[1:] = {ASK}; from clara_model.cli.main import NAME; code = NAME()"
WAYS = {
    "clara ask": COMMAND.replace("NAME", "program"),
    "clara ask, everything imported": COMMAND.replace("NAME", "main"),
    "import torch": "import torch, sys",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each way (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = "Ranvun Mepos was born in Jiwas. By trade he was a sailor, and liked the work."
        (Path(folder) / "notes.txt").write_text(text, encoding="utf-8")
        modules = {way: run(code, folder)[1] for way, code in WAYS.items()}  # reads every file once, and keeps latents
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(args.runs):
            for way, code in WAYS.items():
                seconds[way].append(run(code, folder)[0])
    print(f"{'CPU seconds, median (range)':<34}{'':>24}{'modules':>10}")
    for way, values in seconds.items():
        print(f"{way:<34}{f'{median(values):.2f} ({min(values):.2f} to {max(values):.2f})':>24}{modules[way]:>10}")
    print(f"clara ask / everything imported: {median(seconds['clara ask']) / median(seconds[list(WAYS)[1]]):.2f}")


def run(code: str, folder: str) -> tuple[float, int]:
    """CPU seconds of a whole process, and its modules at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": folder}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-c", f"{code}; print(len(sys.modules))"]
    done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, int(done.stdout.split()[-1])


if __name__ == "__main__":
    main()

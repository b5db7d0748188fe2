"""Each step of an answer with the code as it was and as it is: one command, the same machine, in turn.

    python examples/benchmarks/before_after.py --threads 1    # 135M parameters, three minutes
    python examples/benchmarks/before_after.py --before COMMIT --png before-after.png

Checks out ``--before`` (by default the last commit before this was begun) into a folder for the time being, runs
`probe.py` with the same interpreter on both trees by turns, each time in a process of its own, and prints medians and
ranges over the runs; then whole processes by turns: ``clara ask`` with the bundled model, and imports. The float type
is bfloat16 where the processor has it, else float32. A random model: costs, not answers. Leaves out GPUs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from clara_model.checkpoint.devices import dtype_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BEFORE = "fe8de0a"
SIDES = ("before", "after")
Found = dict[str, dict[str, list[float]]]
"""Milliseconds of each run, by row and side."""
SAME = "same text"
RATIOS = {
    "compressing / its bare products": ("compressing", "its bare products"),
    "decoding / its bare products": ("decoding, a token", "its bare products, a token"),
    "decoding / weight bytes at the memory's speed": ("decoding, a token", "weight bytes at the memory's speed"),
    "importing clara_integrations.haystack / haystack": ("import clara_integrations.haystack", "import haystack"),
}


def main() -> None:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the older tree goes in any case
    with tempfile.TemporaryDirectory() as folder:
        trees = {"before": Path(folder) / "before", "after": ROOT}
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(trees["before"]), args.before], check=True)
        try:
            found, texts = steps(trees, args)
            found |= starts(trees, args, Path(folder))
        finally:
            subprocess.run([*git, "remove", "--force", str(trees["before"])], check=True)
    show(found, texts, args)
    if args.json:
        args.json.write_text(json.dumps({"ms": found, SAME: len(texts) == 1}, indent=1) + "\n", encoding="utf-8")
    if args.png:
        draw(found, args.png)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help="the older code (default: %(default)s)")
    parser.add_argument("--preset", default="135m", help="size of the model, as for probe.py")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default=default_dtype())
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--documents", type=int, default=10, help="candidates of the question (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of the probe on each tree (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=7, help="of each whole process (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--png", type=Path, help="draw them here")
    return parser.parse_args()


def default_dtype() -> str:
    return str(dtype_of(None, torch.device("cpu"))).removeprefix("torch.")


# -- what is measured -------------------------------------------------------------------------------------------------


def steps(trees: dict[str, Path], args: argparse.Namespace) -> tuple[Found, set[str]]:
    """The steps of an answer, and what was written (one text, if both trees write the same)."""
    words = ["--preset", args.preset, "--dtype", args.dtype, "--threads", str(args.threads)]
    words += ["--documents", str(args.documents)]
    found: Found = defaultdict(lambda: {side: [] for side in SIDES})
    texts = set()
    for _ in range(args.runs):
        for side in SIDES:
            values = json.loads(run([str(HERE / "probe.py"), *words], trees[side]))
            texts.add(values.pop("text"))
            for name, value in values.items():
                found[name][side].append(value)
    return dict(found), texts


def starts(trees: dict[str, Path], args: argparse.Namespace, folder: Path) -> Found:
    """Whole processes, milliseconds."""
    document = folder / "notes.txt"
    document.write_text("Ranvun Mepos was born in Jiwas. By trade he was a sailor, and liked the work.", "utf-8")
    asked = ["ask", "Where was Ranvun Mepos born?", "--docs", str(document), "--model", "clara-tiny", "--quiet"]
    program = f"import sys; sys.argv[1:] = {asked!r}; import CLI as cli; sys.exit(getattr(cli, 'program', cli.main)())"
    rows: dict[str, Callable[[Path], str]] = {
        "clara ask, the whole process": lambda tree: program.replace("CLI", cli_of(tree)),
        "import clara_integrations.haystack": lambda _: "import clara_integrations.haystack",
        "import haystack": lambda _: "import haystack",
    }
    found: Found = {name: {side: [] for side in SIDES} for name in rows}
    for name, code in rows.items():
        for side in SIDES:
            run(["-c", code(trees[side])], trees[side], folder)  # compiles, and reads the files once
        for _ in range(args.starts):
            for side in SIDES:
                started = time.perf_counter()
                run(["-c", code(trees[side])], trees[side], folder)
                found[name][side].append(1000 * (time.perf_counter() - started))
    return found


def cli_of(tree: Path) -> str:
    return "clara_model.cli" if (tree / "clara_model" / "cli.py").exists() else "clara_model.cli.main"


def run(words: Sequence[str], tree: Path, cache: Path | None = None) -> str:
    """What a process of this interpreter prints, with the tree's packages."""
    kept = {} if cache is None else {"XDG_CACHE_HOME": str(cache)}
    environment = {**os.environ, **kept, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=tree.parent, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


# -- the table --------------------------------------------------------------------------------------------------------


def show(found: Found, texts: set[str], args: argparse.Namespace) -> None:
    print(f"{args.preset}, {args.dtype}, {args.threads} threads, {args.documents} documents, rate 16; "
          f"before: {args.before}, {args.runs} runs each")  # fmt: skip
    print(f"{'milliseconds, median (range)':<36}{'before':>30}{'after':>30}{'after / before':>16}")
    for name, sides in found.items():
        cells = ["{} ({} to {})".format(*map(short, (median(v), min(v), max(v)))) for v in (sides[s] for s in SIDES)]
        print(f"{name:<36}{cells[0]:>30}{cells[1]:>30}{median(sides['after']) / median(sides['before']):>16.2f}")
    for name, (above, below) in RATIOS.items():
        ratios = [median(found[above][side]) / median(found[below][side]) for side in SIDES]
        print(f"{name}: {ratios[0]:.2f} before, {ratios[1]:.2f} after")
    print("both write the same text" if len(texts) == 1 else "the texts differ")


def short(milliseconds: float) -> str:
    """Three digits or more, no power of ten."""
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def draw(found: Found, path: Path) -> None:
    """What is left of each step, a bar each."""
    from matplotlib.figure import Figure  # an extra

    limits = {below for above, below in RATIOS.values() if above != "import clara_integrations.haystack"}
    names = [name for name in found if name not in limits][::-1]
    shares = [median(found[name]["after"]) / median(found[name]["before"]) for name in names]
    figure = Figure(figsize=(7, 0.5 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, shares, color="#2b5d9b")
    axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=3, fontsize=8)
    axes.axvline(1.0, color="#888888", linewidth=1)
    axes.set_xlabel("time after / time before (medians)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()

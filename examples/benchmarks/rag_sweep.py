"""What an answer costs as the documents grow longer and as more of them are read, five ways on one base.

    python examples/benchmarks/rag_sweep.py --threads 1 --repeats 1 --png rag-sweep.png    # 58M, about ten minutes

The ways are those of `rag.py`, but for the straightforward one: 20 documents of 64 to 1,024 tokens with 5 of them read,
then documents of about 180 tokens with 1 to 20 of them read. Each line: medians of the whole answer's seconds, and the
question from which on compressing has cost no more than the cross-encoder and text. Leaves out quality.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import torch
from rag import Ways, measured, pays_from
from random_model import add_sizes, take_sizes

LENGTHS, READ = (64, 128, 256, 512, 1024), (1, 2, 5, 10, 20)
TICKS = (1, 2, 5, 10, 20)
"""Seconds that are written beside the axis."""
NAMES = ("cold", "warm", "stored", "text", "rerank + text")
COLOURS = ("#8c8c8c", "#2b5d9b", "#7fb2e5", "#d98b2b", "#a83b32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rate", type=int, default=16, help="document tokens per memory token")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--png", type=Path, help="draw the totals here")
    args = take_sizes(parser)
    torch.set_num_threads(args.threads)
    print(
        f"{args.preset}, {args.dtype} on {args.device}; {args.documents} documents, rate {args.rate}, "
        f"{args.new_tokens} new tokens; seconds of an answer, medians of {args.repeats}"
    )
    found = {
        f"tokens of a document ({args.top_k} read)": {words: line(args, words, args.top_k) for words in LENGTHS},
        f"documents read (of about {args.words} tokens)": {count: line(args, args.words, count) for count in READ},
    }
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.png:
        draw(found, args.png)


def line(args: argparse.Namespace, words: int, read: int) -> dict[str, float]:
    """Medians of the totals at one setting, printed too."""
    torch.manual_seed(0)
    sizes = argparse.Namespace(**{**vars(args), "model": None, "words": words, "top_k": read})
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(sizes, Path(folder))
        calls = dict(zip(NAMES, (ways.cold, ways.warm, ways.stored, ways.text, ways.rerank_text), strict=True))
        seconds = measured(calls, sizes)
    totals = {name: median(seconds[name]["total"]) for name in NAMES}
    cells = ", ".join(f"{name} {total:.3f}" for name, total in totals.items())
    share = totals["warm"] / totals["rerank + text"]
    print(
        f"{words:>5} tokens, {read:>2} read: {cells}; warm {share:.2f} of rerank + text, pays from question "
        f"{pays_from(seconds)}",
        flush=True,
    )
    return totals


def draw(found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Seconds of each way over both sizes, on logarithmic axes."""
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for axes, (what, lines) in zip(both, found.items(), strict=True):
        for name, colour in zip(NAMES, COLOURS, strict=True):
            axes.plot(list(lines), [totals[name] for totals in lines.values()], marker="o", color=colour, label=name)
        axes.set(xlabel=what, xscale="log", yscale="log", xticks=list(lines), yticks=TICKS)
        axes.minorticks_off()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set_ylabel("seconds of an answer (median)")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(NAMES), frameon=False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()

"""How many questions a second one `Clara` answers when many callers ask at once, against one at a time.

    python examples/benchmarks/serving.py                                      # 58M parameters, two threads, a minute
    python examples/benchmarks/serving.py --preset 7b --device cuda --dtype bfloat16

Each question has its own five documents of the same twenty, whose latents are given (warm answers). The answers of both
ways are compared. Leaves out quality (the model is random), and streams, which are not gathered.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

import torch
from random_model import add_sizes, build, documents, take_sizes

from clara_model.inference.clara import Clara


def main() -> None:
    args = parse()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    clara = Clara(build(args, args.rate))
    latents = clara.compress(documents(args))
    questions = [" ".join(f"w{number + place}" for place in range(12)) for number in range(args.questions)]
    how = {"max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens}

    def ask(question: str) -> tuple[str, float]:
        start = time.perf_counter()
        return clara.answer(question, latents, args.top_k, **how).text, time.perf_counter() - start

    ask(questions[0])
    alone, alone_seconds = timed(lambda: [ask(question) for question in questions])
    with ThreadPoolExecutor(args.callers) as pool:
        together, seconds = timed(lambda: list(pool.map(ask, questions)))
    waits = [wait for _, wait in together]
    result = {
        "callers": args.callers,
        "questions": len(questions),
        "one_at_a_time_per_second": round(len(questions) / alone_seconds, 3),
        "together_per_second": round(len(questions) / seconds, 3),
        "ratio": round(alone_seconds / seconds, 2),
        "alone_median_seconds": round(median(wait for _, wait in alone), 3),
        "alone_p95_seconds": round(quantiles([wait for _, wait in alone], n=20)[-1], 3),
        "median_seconds": round(median(waits), 3),
        "p95_seconds": round(quantiles(waits, n=20)[-1], 3),
        "same_answers": sum(one[0] == other[0] for one, other in zip(alone, together, strict=True)),
    }
    show(result, args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.png:
        draw(result, args.png)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rate", type=int, default=16, help="document tokens per memory token")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--png", type=Path, help="draw them here")
    return take_sizes(parser)


def show(result: dict, args: argparse.Namespace) -> None:
    print(
        f"{args.preset}, {args.dtype} on {args.device}; {result['questions']} questions to {args.documents} documents "
        f"whose latents are given, k {args.top_k}, {args.new_tokens} new tokens"
    )
    print(f"{'':<22}{'questions a second':>20}{'seconds, median':>18}{'p95':>9}")
    for label, name, start in (
        ("one at a time", "one_at_a_time", "alone_"),
        (f"{result['callers']} callers", "together", ""),
    ):
        print(
            f"{label:<22}{result[f'{name}_per_second']:>20}{result[f'{start}median_seconds']:>18}"
            f"{result[f'{start}p95_seconds']:>9}"
        )
    print(f"ratio {result['ratio']}; {result['same_answers']} of {result['questions']} answers are the same")


def draw(result: dict, path: Path) -> None:
    """Questions a second, and how long a caller waits."""
    from matplotlib.figure import Figure  # an extra

    labels = ["one at a time", f"{result['callers']} callers at once"]
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rates = [result["one_at_a_time_per_second"], result["together_per_second"]]
    left.bar_label(left.barh(labels, rates, color="#2b5d9b"), fmt="%.2f", padding=3, fontsize=8)
    left.set_xlabel("questions a second")
    for kind, colour in (("p95", "#a9c4e4"), ("median", "#2b5d9b")):
        waits = [result[f"alone_{kind}_seconds"], result[f"{kind}_seconds"]]
        right.barh(labels, waits, color=colour, label=kind)
    right.set_xlabel("seconds until an answer is there")
    right.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axes in (left, right):
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    left.invert_yaxis()
    figure.savefig(path, dpi=160)


def timed(call):
    """What a call gives, and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()

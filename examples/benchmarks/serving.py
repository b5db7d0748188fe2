"""How many questions a second one `Clara` answers when many callers ask at once, against one at a time.

    python examples/benchmarks/serving.py                                      # 58M parameters, two threads, a minute
    python examples/benchmarks/serving.py --preset 7b --device cuda --dtype bfloat16 --callers 8 64 256 --text

Each question has its own five documents of the same twenty, whose latents are given (warm answers); with ``--text`` the
same base reads five of them as text as well. The answers of all ways are compared with those of one caller. Leaves out
quality (the model is random), and streams, which are not gathered.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

import torch
from peak import memory_now, memory_peak, reset_peak
from random_model import add_sizes, build, documents, take_sizes

from clara_model.inference.clara import Clara

MIB = 1 << 20


def main() -> None:
    args = parse()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    clara = Clara(build(args, args.rate))
    texts = documents(args)
    latents = clara.compress(texts)
    how = {"max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens}

    def from_latents(question: str) -> str:
        return clara.answer(question, latents, args.top_k, **how).text

    def from_text(question: str) -> str:
        return clara.plain(" ".join([*texts[: args.top_k], question]), **how).text

    ways = {"latents": from_latents} | ({"text": from_text} if args.text else {})
    results = {name: measured(way, args) for name, way in ways.items()}
    show(results, args)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.png:
        draw(results, args.png)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rate", type=int, default=16, help="document tokens per memory token")
    parser.add_argument("--callers", type=int, nargs="+", default=[64])
    parser.add_argument("--questions", type=int, default=64, help="at least, and one for each caller")
    parser.add_argument("--text", action="store_true", help="from text as well")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--png", type=Path, help="draw the latents' numbers here")
    return take_sizes(parser)


def measured(answer: Callable[[str], str], args: argparse.Namespace) -> list[dict[str, float]]:
    """One row for one caller, and one for each number of callers."""
    rows: list[dict[str, float]] = []
    alone: dict[str, str] = {}
    for callers in [1, *args.callers]:
        count = max(args.questions, callers)
        questions = [" ".join(f"w{number + place}" for place in range(12)) for number in range(count)]
        waits: list[float] = []

        def ask(question: str, waits: list[float] = waits) -> str:
            start = time.perf_counter()
            text = answer(question)
            waits.append(time.perf_counter() - start)
            return text

        with ThreadPoolExecutor(callers) as pool:
            warm = callers if args.device.startswith("cuda") else 1
            list(pool.map(answer, questions[:warm]))  # allocates, and records graphs where there are any
            reset_peak(args.device)
            before, start = memory_now(args.device), time.perf_counter()
            texts = dict(zip(questions, pool.map(ask, questions), strict=True))
            seconds = time.perf_counter() - start
        alone = alone or texts
        rate = count / seconds
        rows.append(
            {
                "callers": callers,
                "questions": count,
                "per_second": round(rate, 3),
                "ratio": round(rate / (rows[0]["per_second"] if rows else rate), 2),
                "median_seconds": round(median(waits), 3),
                "p95_seconds": round(quantiles(waits, n=20)[-1], 3),
                "compared": len(alone),
                "same_answers": sum(texts[question] == text for question, text in alone.items()),
                "peak_mib": round((memory_peak(args.device) - before) / MIB),
            }
        )
    return rows


def show(results: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    print(
        f"{args.preset}, {args.dtype}, {args.decoding} decoding on {args.device}; questions to {args.documents} "
        f"documents, latents given, k {args.top_k}, {args.new_tokens} new tokens"
    )
    print(f"{'':<22}{'questions a second':>20}{'ratio':>8}{'seconds, median':>18}{'p95':>9}{'peak MiB':>10}")
    for name, rows in results.items():
        for row in rows:
            label = f"{name}, " + ("one at a time" if row["callers"] == 1 else f"{row['callers']} callers")
            print(
                f"{label:<22}{row['per_second']:>20}{row['ratio']:>8}{row['median_seconds']:>18}"
                f"{row['p95_seconds']:>9}{row['peak_mib']:>10}"
            )
        for row in rows[1:]:
            print(
                f"{row['same_answers']} of {row['compared']} answers from {name} are the same, {row['callers']} callers"
            )


def draw(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Questions a second, and how long a caller waits."""
    from matplotlib.figure import Figure  # an extra

    rows = results["latents"]
    labels = ["one at a time", *(f"{row['callers']} callers at once" for row in rows[1:])]
    figure = Figure(figsize=(7, 1.4 + 0.5 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.bar_label(
        left.barh(labels, [row["per_second"] for row in rows], color="#2b5d9b"), fmt="%.2f", padding=3, fontsize=8
    )
    left.set_xlabel("questions a second")
    for kind, colour in (("p95", "#a9c4e4"), ("median", "#2b5d9b")):
        right.barh(labels, [row[f"{kind}_seconds"] for row in rows], color=colour, label=kind)
    right.set_xlabel("seconds until an answer is there")
    right.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axes in (left, right):
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    left.invert_yaxis()
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()

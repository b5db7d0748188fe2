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
        "median_seconds": round(median(waits), 3),
        "p95_seconds": round(quantiles(waits, n=20)[-1], 3),
        "same_answers": sum(one[0] == other[0] for one, other in zip(alone, together, strict=True)),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rate", type=int, default=16, help="document tokens per memory token")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    return take_sizes(parser)


def timed(call):
    """What a call gives, and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()

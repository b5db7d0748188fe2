"""What one tree of the code takes for each step of an answer; a line of JSON, for `before_after.py`, which runs it.

Uses public names alone, so that it runs on older code too. A random model, one text at a time in the bare products.
Leaves out starting the program, which `before_after.py` times from outside.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from limits import bandwidth, vector_products, weight_bytes
from random_model import add_sizes, build, documents, matrix_products, take_sizes
from torch import nn

from clara_model import Clara

CHECKS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rate", type=int, default=16, help="document tokens per memory token")
    parser.add_argument("--repeats", type=int, default=3)
    args = take_sizes(parser)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    print(json.dumps(measured(args)))


def measured(args: argparse.Namespace) -> dict[str, object]:
    """Milliseconds; medians of what an answer takes, one run of compressing, which is long."""
    model = build(args, args.rate)
    model.eval()
    clara, texts, question = Clara(model), documents(args), " ".join(f"w{i}" for i in range(12))
    lengths = [len(model.tokens.document_ids(text)) for text in texts]
    clara.answer(question, texts, args.top_k, max_new_tokens=2)  # allocates

    def answer(new: int) -> str:
        return clara.answer(question, texts, args.top_k, max_new_tokens=new, min_new_tokens=new).text

    def compress() -> None:
        clara.store.clear()
        clara.compress(texts)

    output = Clock(model.base.get_output_embeddings())
    answer(2)  # half precision may merge weights once
    total, first, head = [], [], []
    for _ in range(args.repeats):
        total.append(milliseconds(lambda: answer(args.new_tokens)))
        first.append(milliseconds(lambda: answer(1)))
        head.append(output.last)
    compressing = milliseconds(compress)
    products = milliseconds(lambda: [matrix_products(model, 1, length) for length in lengths])
    return {
        "warm answer": median(total),
        "to its first token": median(first),
        "decoding, a token": (median(total) - median(first)) / (args.new_tokens - 1),
        "its bare products, a token": milliseconds(lambda: vector_products(model, args.new_tokens)) / args.new_tokens,
        "weight bytes at the memory's speed": 1000 * weight_bytes(model) / bandwidth(),
        "output layer of the first pass": median(head),
        "asking for the fingerprint": milliseconds(lambda: [model.fingerprint for _ in range(CHECKS)]) / CHECKS,
        "compressing": compressing,
        "its bare products": products,
        "text": answer(args.new_tokens),
    }


class Clock:
    """Milliseconds of a layer's last pass."""

    def __init__(self, layer: nn.Module) -> None:
        self.last = self._start = 0.0
        layer.register_forward_pre_hook(self._enter)
        layer.register_forward_hook(self._leave)

    def _enter(self, *_: object) -> None:
        self._start = time.perf_counter()

    def _leave(self, *_: object) -> None:
        self.last = 1000 * (time.perf_counter() - self._start)


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()

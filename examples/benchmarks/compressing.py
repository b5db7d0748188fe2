"""`clara compress` beside the bare matrix products of the same work: windows, tokens, passes, store, all counted.

Documents of uneven length go from a JSONL file into a new store. The matrix products of that run are counted by shape
and then run alone. CPU time of one thread, so that other work on the machine changes little; the better of a few runs.

    OMP_NUM_THREADS=1 python examples/benchmarks/compressing.py [--preset 135m] [--documents 40] [--rates 16]
    OMP_NUM_THREADS=1 python examples/benchmarks/compressing.py --model clara-tiny --texts ../shared/data/eval/nq.jsonl
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import random_model
import torch
from bare_products import Shapes, products

from clara_model import Clara, ClaraModel
from clara_model.documents.corpus import compress_corpus
from clara_model.store import open_store
from trainers.data.rows import read_rows

RUNS = 2


class Padding:
    """Counts the positions that passes read, and those of them that hold a text."""

    def __init__(self, model: ClaraModel) -> None:
        self.positions = self.texts = 0
        self._pad, model.tokens.pad = model.tokens.pad, self._counted  # type: ignore[method-assign]

    def _counted(self, rows: list[list[int]], *args: object, **kwargs: object) -> object:
        made = self._pad(rows, *args, **kwargs)  # type: ignore[arg-type]
        self.positions += made[0].numel()
        self.texts += sum(map(len, rows))
        return made

    @property
    def share(self) -> float:
        """Of the positions that hold nothing."""
        return 1 - self.texts / self.positions


def compressed(model: ClaraModel, file: Path) -> tuple[float, int, int]:
    """CPU seconds, passages and tokens of compressing the file into a new store."""
    with tempfile.TemporaryDirectory() as folder, open_store(folder) as store:
        clara = Clara(model, store=store, cache_bytes=0)
        start = time.process_time()
        done = compress_corpus(clara, store, [str(file)])
        return time.process_time() - start, done.compressed, done.tokens


def report(name: str, model: ClaraModel, texts: list[str]) -> None:
    """One line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "documents.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        compressed(model, file)  # warm
        padding, shapes = Padding(model), Shapes()
        with shapes:
            compressed(model, file)
        share = padding.share
        whole, alone = float("inf"), float("inf")
        for _ in range(RUNS):  # in turn
            seconds, passages, tokens = compressed(model, file)
            whole = min(whole, seconds)
            start = time.process_time()
            products(shapes.found)
            alone = min(alone, time.process_time() - start)
    print(
        f"{name}: {passages} passages, {tokens:,} tokens in {whole:.2f} CPU s ({tokens / whole:,.0f} tokens/s); bare "
        f"matrix products {alone:.2f} CPU s, ratio {alone / whole:.2f} (goal 0.7); padding {share:.3f}",
        flush=True,
    )


def main() -> None:
    """A line for each rate, or of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    random_model.add_sizes(parser)
    parser.add_argument("--rates", type=int, nargs="+", default=[16], help="document tokens per memory token")
    parser.add_argument("--model", help="a checkpoint, in place of a random model of the preset's size")
    parser.add_argument("--texts", metavar="FILE", help="with --model: rows whose documents are taken")
    parser.set_defaults(preset="135m", threads=1, documents=40)
    args = random_model.take_sizes(parser)
    if bool(args.model) != bool(args.texts):
        parser.error("--model and --texts go together")
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    if args.model:
        model = ClaraModel.from_pretrained(args.model, dtype=getattr(torch, args.dtype), device=args.device)
        rows = read_rows([args.texts], prefer_gold=True)
        texts = list(dict.fromkeys(text for row in rows[: args.documents] for text in row.documents))
        report(args.model, model, texts[: args.documents])
        return
    for rate in args.rates:
        report(
            f"{args.preset}, rate {rate}, {args.dtype}", random_model.build(args, rate), random_model.documents(args)
        )


if __name__ == "__main__":
    main()

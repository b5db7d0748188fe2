"""How fast `clara compress` is on its whole way from files to a store, and where its time goes.

Prints tokens a second, the seconds of tokenising (splitting included), of the model's passes and of the store, and the
bare matrix products of the same passes beside the whole (goal: 0.7 of it). What goes into a store is made in a pass of
its own, on a GPU too, so there is no padding.

    python examples/benchmarks/compressing.py qa/*.jsonl.gz --text-key doc --documents 200     # random, 135M
    python examples/benchmarks/compressing.py qa/*.jsonl.gz --text-key doc --documents 200 --base BASE
    python examples/benchmarks/compressing.py qa/*.jsonl.gz --text-key doc --documents 3000 --model clara-small

The random model knows no word of a real text, so its tokenizer costs little; ``--base`` takes a real base with its
own tokenizer and puts fresh roles on it, ``--model`` a checkpoint. On a CPU times are CPU time, so other work beside it
matters little; take one thread. Leaves out what starts before (loading) and several devices.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, local
from typing import Any

import torch
from random_model import MAX_LENGTH, add_sizes, build, count, matrix_products, take_sizes

from clara_model import Clara, ClaraConfig, ClaraModel
from clara_model.checkpoint.base_model import load_base
from clara_model.checkpoint.options import LoadOptions
from clara_model.documents.corpus import CorpusReport, compress_corpus
from clara_model.documents.document import Document
from clara_model.documents.passages import read_source, sources_of
from clara_model.store import open_store

RATE = 16
GOAL = 0.7


class Clock:
    """Seconds by name, each thread's own; what a watched call calls is part of it."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)
        self._lock, self._thread = Lock(), local()

    def now(self, every_thread: bool = False) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() if every_thread else time.thread_time()

    @contextmanager
    def counting(self, name: str, every_thread: bool = False) -> Iterator[None]:
        start = self.now(every_thread)
        yield
        with self._lock:
            self.seconds[name] += self.now(every_thread) - start

    def watch(self, thing: Any, name: str, *methods: str) -> None:
        """Count the time in some methods of an object from now on."""
        for method in methods:
            setattr(thing, method, self._counted(getattr(thing, method), name))

    def _counted(self, work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **keywords: Any) -> Any:
            if getattr(self._thread, "inside", False):
                return work(*args, **keywords)
            self._thread.inside = True
            try:
                with self.counting(name):
                    return work(*args, **keywords)
            finally:
                self._thread.inside = False

        return counted


def some(inputs: list[str], text_key: str | None, documents: int, folder: Path) -> Path:
    """The first documents of files, in one file of rows."""
    found = itertools.chain.from_iterable(read_source(source, text_key) for source in sources_of(inputs)[0])
    file = folder / "some.jsonl"
    read = itertools.islice((one for one in found if isinstance(one, Document)), documents)
    lines = (json.dumps({"text": one.text}) + "\n" for one in read)
    file.write_text("".join(lines), encoding="utf-8")
    return file


def made(args: argparse.Namespace) -> ClaraModel:
    """The model: a checkpoint, fresh roles on a base, or all of it random."""
    if args.model:
        return ClaraModel.from_pretrained(args.model, device=args.device, dtype=args.dtype)
    if not args.base:
        return build(args, RATE)
    config = ClaraConfig(base_model=args.base, doc_max_length=MAX_LENGTH, compression_rate=RATE)
    base, tokenizer = load_base(args.base, LoadOptions(device=args.device, dtype=args.dtype).resolved())
    return ClaraModel(base, tokenizer, config)


def compressed(model: ClaraModel, file: Path, folder: Path, clock: Clock) -> tuple[CorpusReport, list[int]]:
    """What was done, and the positions of each pass."""
    passes: list[int] = []
    encode_rows = model.encode_rows

    def counted(role: str, rows: list[list[int]], **how: Any) -> torch.Tensor:
        passes.extend(map(len, rows))  # for a store, a text is a pass of its own
        return encode_rows(role, rows, **how)

    with open_store(folder / "latents") as store:
        clara = Clara(model.eval(), store=store, cache_bytes=0)
        assert clara.fingerprint  # reads the weights once
        model.encode_rows = counted  # type: ignore[method-assign]
        clock.watch(model, "passes", "encode_rows")
        clock.watch(model.tokens, "tokenising", "windows", "document_ids")
        clock.watch(store, "store", "numbers", "get", "put", "record", "digests")
        with clock.counting("whole", every_thread=True):
            done = compress_corpus(clara, store, [str(file)])
    return done, passes


def show(args: argparse.Namespace, model: ClaraModel, done: CorpusReport, passes: list[int], clock: Clock) -> None:
    whole = clock.seconds.pop("whole")
    print(
        f"{args.model or args.base or 'random'}, {count(model) / 1e6:,.0f}M parameters, {args.dtype} on {args.device}"
    )
    print(f"{done.documents:,} documents, {done.compressed:,} passages, {done.tokens:,} tokens in {whole:.2f} s: "
          f"{done.tokens / whole:,.0f} tokens/s (by the clock {done.seconds:.2f} s); "
          f"{len(passes):,} passes of one text each, so no padding")  # fmt: skip
    clock.seconds["the rest"] = whole - sum(clock.seconds.values())
    print("; ".join(f"{name} {spent:.2f} s ({spent / whole:.1%})" for name, spent in clock.seconds.items()))
    if model.residuals.skips_base_model("compressor"):
        print("no pass of the base is needed: nothing to compare with")
        return
    with clock.counting("products"):
        for positions in passes:
            matrix_products(model, 1, positions)
    products = clock.seconds["products"]
    print(f"bare matrix products {products:.2f} s: ratio {products / whole:.2f} (goal {GOAL})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    parser.add_argument("--text-key")
    parser.add_argument("--model", help="a checkpoint, instead of a random model")
    parser.add_argument("--base", help="a base model that gets fresh roles, instead of a random model")
    add_sizes(parser)
    parser.set_defaults(preset="135m", documents=200, threads=1)
    args = take_sizes(parser)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder, model, clock = Path(name), made(args), Clock(args.device)
        file = some(args.inputs, args.text_key, args.documents, folder)
        show(args, model, *compressed(model, file, folder, clock), clock)


if __name__ == "__main__":
    main()

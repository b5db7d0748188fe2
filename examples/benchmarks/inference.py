"""How long an answer takes, and how near compressing and decoding come to what the machine allows.

    python examples/benchmarks/inference.py                                     # 58M parameters, two threads, a minute
    python examples/benchmarks/inference.py --preset 7b --device cuda --dtype bfloat16 --rates 16 32 4
    python examples/benchmarks/inference.py --preset 7b --device cuda --dtype bfloat16 --attn flash_attention_2

The model is random and built here: nothing is downloaded, and the answers mean nothing. Compressing and the bare
products (base projections, LoRA products, attention products, with the model's own weights) are timed in turn, and the
best of each counts; so are a decoding step and its bare matrix-vector products, beside its weights' bytes at the speed
of memory (`limits.py`). Leaves out quality, and every cost of reading weights from disk.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
from limits import bandwidth, vector_products, weight_bytes
from peak import memory_now, memory_peak, reset_peak, synchronise
from random_model import PRESETS, add_sizes, build, count, documents, matrix_products, take_sizes

from clara_model.inference.batching import plan_batches
from clara_model.inference.clara import Clara
from clara_model.latents import Latents
from clara_model.store.cache import LatentCache

MIB = 1 << 20


def main() -> None:
    args = parse()
    torch.manual_seed(0)
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    results = [measure(args, rate) for rate in args.rates]
    for result in results:
        show(result)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.png:
        draw(results, args.png)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rates", type=int, nargs="+", default=[16], help="document tokens per memory token")
    parser.add_argument("--batch-tokens", type=int, help="positions in one encoder batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--png", type=Path, help="draw the times against what the machine allows here")
    return take_sizes(parser)


# -- what is measured -------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, rate: int) -> dict:
    before = memory_now(args.device)
    model = build(args, rate)
    clara = Clara(model, batch_tokens=args.batch_tokens)
    texts, question = documents(args), " ".join(f"w{i}" for i in range(12))
    ids = [len(model.tokens.document_ids(text)) for text in texts]
    batches = passes(args, clara, ids)
    how = {"max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens}
    warm_up(clara, texts, question)
    reset_peak(args.device)

    cold, given, compressing, products = [], [], [], []
    for _ in range(args.repeats):
        forget(clara)
        cold.append(clara.answer(question, texts, args.top_k, **how).timings)
        latents = clara.compress(texts)
        given.append(clara.answer(question, latents, args.top_k, **how).timings)
        forget(clara)
        compressing.append(seconds(args.device, lambda: clara.compress(texts)))
        products.append(seconds(args.device, lambda: [matrix_products(model, len(b), max(b)) for b in batches]))
    steps = decoding(args, clara, latents, question)
    as_text = min(clara.plain(" ".join(texts[: args.top_k]), **how).timings.total for _ in range(2))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    activations = max(len(b) * max(b) for b in batches) * (4 * args.hidden + 3 * args.intermediate)
    size = torch.tensor([], dtype=model.base.dtype).element_size()
    return {
        "model": {name: getattr(args, name) for name in PRESETS["58m"]} | {"parameters": count(model)},
        "run": {name: getattr(args, name) for name in ("device", "dtype", "attn", "threads", "documents", "top_k")},
        "rate": rate,
        "memory_tokens": model.config.memory_tokens,
        "batches": [[len(batch), max(batch)] for batch in batches],
        "cold": phases(cold),
        "given": phases(given),
        "text_seconds": as_text,
        "compress_seconds": min(compressing),
        "compress_median": median(compressing),
        "products_seconds": min(products),
        "products_median": median(products),
        "ratio": min(compressing) / min(products),
        "padding": 1 - sum(ids) / sum(len(batch) * max(batch) for batch in batches),
        "decoding": steps,
        "weights_bytes": weights,
        "activations_bytes": activations * size,
        "peak_bytes": memory_peak(args.device) - before,
    }


def passes(args: argparse.Namespace, clara: Clara, lengths: list[int]) -> list[list[int]]:
    """The lengths of the texts of each pass: on a CPU every text is a pass of its own."""
    if args.device == "cpu":
        return [[length] for length in lengths]
    planned = plan_batches(lengths, clara.shared.limits.encoder_tokens(clara.model))
    return [[lengths[i] for i in batch] for batch in planned]


def decoding(args: argparse.Namespace, clara: Clara, latents: Latents, question: str) -> dict[str, float]:
    """Seconds of one token after the first, of its bare products, and of reading its weights' bytes."""

    def write(new: int) -> None:
        clara.answer(question, latents, args.top_k, max_new_tokens=new, min_new_tokens=new)

    new, step, products = max(2, args.new_tokens), [], []
    for _ in range(args.repeats):
        first, whole = (seconds(args.device, lambda n=n: write(n)) for n in (1, new))
        step.append((whole - first) / (new - 1))
        products.append(seconds(args.device, lambda: vector_products(clara.model, new)) / new)
    reading = weight_bytes(clara.model) / bandwidth(args.device)
    return {"token": min(step), "products": min(products), "reading": reading}


def seconds(device: str, work) -> float:
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def warm_up(clara: Clara, texts: list[str], question: str) -> None:
    clara.answer(question, texts, 2, max_new_tokens=2)
    forget(clara)


def forget(clara: Clara) -> None:
    assert isinstance(clara.store, LatentCache)
    clara.store.clear()


def phases(timings: list) -> dict[str, float]:
    """The best of each phase."""
    names = ("compress", "query", "rank", "generate", "total")
    return {name: min(getattr(timing, name) for timing in timings) for name in names}


# -- the table --------------------------------------------------------------------------------------------------------


def show(result: dict) -> None:
    model, run = result["model"], result["run"]
    print(
        f"\n{model['parameters'] / 1e6:,.0f}M parameters, hidden {model['hidden']}, {model['layers']} layers, "
        f"{run['dtype']} on {run['device']}, {run['attn']}; {run['documents']} documents of about {model['words']} "
        f"tokens, rate {result['rate']} ({result['memory_tokens']} memory tokens), k {run['top_k']}"
    )
    print(f"{'seconds':<22}" + "".join(f"{name:>10}" for name in result["cold"]))
    for label, row in (("cold", result["cold"]), ("latents given", result["given"])):
        print(f"{label:<22}" + "".join(f"{value:>10.3f}" for value in row.values()))
    print(f"{'k documents as text':<22}" + " " * 30 + f"{result['text_seconds']:>10.3f}" * 2)
    asked = 1.15 if run["dtype"] == "float32" else 1.25
    print(
        f"compressing {result['compress_seconds']:.3f} s, bare matrix products {result['products_seconds']:.3f} s: "
        f"ratio {result['ratio']:.2f} (at most {asked} is asked); medians {result['compress_median']:.3f} and "
        f"{result['products_median']:.3f} s; {len(result['batches'])} passes, {100 * result['padding']:.1f} % padding"
    )
    token, bare, reading = (1000 * result["decoding"][name] for name in ("token", "products", "reading"))
    print(
        f"decoding a token {token:.2f} ms: {token / bare:.2f} times its bare matrix-vector products ({bare:.2f} ms; at "
        f"most 1.6 is asked), {token / reading:.2f} times its weights' bytes at the memory's speed ({reading:.2f} ms)"
    )
    bound = 2 * result["weights_bytes"] + result["activations_bytes"]
    print(
        f"peak memory {result['peak_bytes'] / MIB:,.0f} MiB; weights {result['weights_bytes'] / MIB:,.0f} MiB, one "
        f"batch's activations {result['activations_bytes'] / MIB:,.0f} MiB: at most {bound / MIB:,.0f} MiB is asked"
    )


def draw(results: list[dict], path: Path) -> None:
    """How many times what the machine allows is taken, a group of bars for each rate."""
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(7, 0.8 + 0.9 * len(results)), layout="constrained")
    axes = figure.subplots()
    for result in results:
        step, rate = result["decoding"], f"rate {result['rate']}"
        rows = {
            f"compressing / bare matrix products, {rate}": result["ratio"],
            f"decoding / bare matrix-vector products, {rate}": step["token"] / step["products"],
            f"decoding / weights read at the memory's speed, {rate}": step["token"] / step["reading"],
        }
        axes.bar_label(axes.barh(list(rows), list(rows.values()), color="#2b5d9b"), fmt="%.2f", padding=3, fontsize=8)
    axes.axvline(1.0, color="#888888", linewidth=1)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("times what the machine allows")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()

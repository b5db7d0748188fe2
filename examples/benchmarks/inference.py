"""How long an answer takes, and how near compressing comes to the bare matrix products of its shapes.

    python examples/benchmarks/inference.py                                     # 58M parameters, two threads, a minute
    python examples/benchmarks/inference.py --preset 7b --device cuda --dtype bfloat16 --rates 16 32 4
    python examples/benchmarks/inference.py --preset 7b --device cuda --dtype bfloat16 --attn flash_attention_2

The model is random and built here: nothing is downloaded, and the answers mean nothing. Compressing and the bare
products (base projections, LoRA products, attention products, with the model's own weights) are timed in turn, and the
best of each counts. Leaves out quality, and every cost of reading weights from disk.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from statistics import median

import torch
from random_model import PRESETS, add_sizes, build, count, documents, matrix_products, take_sizes

from clara_model.inference.batching import plan_batches
from clara_model.inference.clara import Clara
from clara_model.store.memory import LatentCache

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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rates", type=int, nargs="+", default=[16], help="document tokens per memory token")
    parser.add_argument("--batch-tokens", type=int, help="positions in one encoder batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    return take_sizes(parser)


# -- what is measured -------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, rate: int) -> dict:
    before = memory_now(args.device)
    model = build(args, rate)
    clara = Clara(model, batch_tokens=args.batch_tokens)
    texts, question = documents(args), " ".join(f"w{i}" for i in range(12))
    ids = [len(model.tokens.document_ids(text)) for text in texts]
    batches = [[ids[i] for i in batch] for batch in plan_batches(ids, clara.engine.limits.encoder_tokens(model))]
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
        "weights_bytes": weights,
        "activations_bytes": activations * size,
        "peak_bytes": memory_peak(args.device) - before,
    }


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


# -- memory -----------------------------------------------------------------------------------------------------------


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def memory_now(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated()
    return _status("VmRSS") or _largest()


def reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass  # then the peak includes building the model


def memory_peak(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM") or _largest()


def _status(name: str) -> int | None:
    """A line of Linux's process status, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _largest() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


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
    print(
        f"compressing {result['compress_seconds']:.3f} s, bare matrix products {result['products_seconds']:.3f} s: "
        f"ratio {result['ratio']:.2f} (at most 1.6 is asked); medians {result['compress_median']:.3f} and "
        f"{result['products_median']:.3f} s; batches {', '.join(f'{n} x {t}' for n, t in result['batches'])}"
    )
    bound = 2 * result["weights_bytes"] + result["activations_bytes"]
    print(
        f"peak memory {result['peak_bytes'] / MIB:,.0f} MiB; weights {result['weights_bytes'] / MIB:,.0f} MiB, one "
        f"batch's activations {result['activations_bytes'] / MIB:,.0f} MiB: at most {bound / MIB:,.0f} MiB is asked"
    )


if __name__ == "__main__":
    main()

"""Tokens per second of each stage, the share of padding, and the ratio to the step's bare matrix products.

A step is run forward and backward on synthetic rows, and in turn with it all its matrix products alone, on random
numbers of the same shapes; the best round of each counts. What is missing from a ratio of 1 went into attention, casts,
small operations and Python. On the CPU the times are CPU time, so run it with one thread (OMP_NUM_THREADS=1).

    python examples/benchmarks/training.py [BASE] [--steps 3] [--rows 32] [--micro 8] [--bf16]
        [--quantization int4] [--torch_compile]
    python examples/benchmarks/training.py [BASE] --padding FILE [--rows 128] [--micro 8]

BASE is a folder or hub name; by default the bundled clara-tiny's base. With a base other than that of ``--checkpoint``
only stage 1 can run (``--stages pretrain``). The memory is the most that a step took, weights included. ``--padding``
trains nothing: it prints which share of the positions of stage 1 is padding on the rows of a file, in the three orders
that a run can have.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bare_products import Shapes, products
from peak import memory_peak, reset_peak
from rich.console import Console
from rich.table import Table

from clara_model.checkpoint import files
from clara_model.modeling.objectives import TrainingModel
from clara_model.store.cache import LatentCache
from trainers.data.rows import Row, read_rows
from trainers.data.sampling import TrainingOrder
from trainers.training.compiling import compile_layers
from trainers.training.latent_reuse import FrozenLatents
from trainers.training.run import collator, objective
from trainers.training.stages import starting_model
from trainers.training.train_config import TrainConfig

STAGES = ("pretrain", "instruct", "end_to_end")


def sentence(chance: random.Random, words: int) -> str:
    """Words of no meaning."""
    return " ".join(chance.choice(("river", "stone", "winter", "Ada", "came", "1904", "north")) for _ in range(words))


def rows(stage: str, count: int, seed: int) -> list[Row]:
    """Rows with lengths as uneven as real ones; in stage 3 twenty candidates, half of them met before."""
    chance = random.Random(seed)
    pool = [sentence(chance, chance.randint(30, 150)) for _ in range(10 * count)]
    found = []
    for _ in range(count):
        documents = chance.sample(pool, {"pretrain": 1, "instruct": 5, "end_to_end": 20}[stage])
        pairs = chance.randint(2, 8) if stage == "pretrain" else 1
        found.append(
            Row(
                documents=tuple(documents),
                questions=tuple(sentence(chance, 10) + "?" for _ in range(pairs)),
                answers=tuple(sentence(chance, chance.randint(2, 12)) for _ in range(pairs)),
            )
        )
    return found


@contextmanager
def started(stage: str, base: str, checkpoint: str, arguments: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """The stage's model, order and collator."""
    start = {"pretrain": base} if stage == "pretrain" else {"pretrain_checkpoint": checkpoint, "pretrain": base}
    sizes = {"compress_rate": 12, "doc_max_length": 192, "generation_top_k": 1} if stage == "pretrain" else {}
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.for_stage(
            stage,
            dataset="rows",
            save_path=folder,
            bf16=arguments.bf16,
            quantization=arguments.quantization,
            train_batch_size=arguments.rows,
            **start,
            **sizes,
        )
        training = TrainingModel(starting_model(config), objective(config)).train()
        order = TrainingOrder([rows(stage, arguments.rows * arguments.steps, 1)], seed=1, step=arguments.rows)
        yield training, order, collator(config, training.model.tokens)


def padding(base: str, arguments: argparse.Namespace) -> Table:
    """Shares of padding in an epoch of a file's rows: of documents, of prompts with answers, of both."""
    table = Table("order of rows", "documents", "prompts", "all")
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.for_stage(
            "pretrain", pretrain=base, dataset=arguments.padding, save_path=folder, train_batch_size=arguments.rows
        )
        collate = collator(config, starting_model(config).tokens)
    kinds: dict[str, dict[str, Any]] = {
        "shuffled": {"step": 0},
        "arranged in their step (default)": {"step": arguments.rows},
        "steps of like length (--group_by_length)": {"step": arguments.rows, "by_length": True},
    }
    for name, kind in kinds.items():
        order = TrainingOrder([read_rows([arguments.padding])], seed=1, **kind)
        real, held = Counter[str](), Counter[str]()
        for start in range(0, len(order), arguments.micro):
            batch = collate([order[place] for place in range(start, min(start + arguments.micro, len(order)))])
            for part in ("document", "prompt"):
                real[part] += int(batch[f"{part}_mask"].sum())
                held[part] += batch[f"{part}_mask"].numel()
        shares = [1 - real[part] / held[part] for part in ("document", "prompt")]
        table.add_row(name, *[f"{share:.3f}" for share in (*shares, 1 - real.total() / held.total())])
    return table


def measure(stage: str, base: str, checkpoint: str, arguments: argparse.Namespace) -> list[str]:
    """One line of the table."""
    with started(stage, base, checkpoint, arguments) as (training, order, collate):
        batches = [
            collate([order[place] for place in range(start, start + arguments.micro)])
            for start in range(0, len(order), arguments.micro)
        ]
        frozen = FrozenLatents(training.model, LatentCache()) if stage == "end_to_end" else None
        shapes = Shapes()

        def whole() -> None:
            run_through(training, frozen, batches, arguments.bf16)

        def written() -> None:
            with torch.compiler.set_stance("force_eager"):
                whole()

        written()  # warm
        with shapes:
            written()
        device = training.model.device.type
        reset_peak(device)
        written()
        peak = memory_peak(device)
        if arguments.torch_compile:
            compile_layers(training.model.base, {})
            whole()
        work = [written, lambda: products(shapes.found), *([whole] if arguments.torch_compile else [])]
        seconds, bare, *compiled = in_turn(work, arguments.rounds)
        masks = [batch[name] for batch in batches for name in batch if name.endswith("_mask")]
        tokens = sum(int(mask.sum()) for mask in masks)
        padding = 1 - tokens / sum(mask.numel() for mask in masks)
        reused = f"{1 - frozen.made / frozen.asked:.2f}" if frozen else ""
        speed, ratio = f"{tokens / seconds:.0f}", f"{bare / seconds:.2f}"
        times = [f"{one / seconds:.2f}" for one in compiled]
        return [stage, speed, f"{padding:.3f}", ratio, reused, f"{peak / 1e9:.2f}", *times]


def run_through(
    training: TrainingModel, frozen: FrozenLatents | None, batches: list[dict[str, Any]], bf16: bool
) -> None:
    """All micro-batches, with nothing in the cache at the start."""
    if frozen is not None:
        frozen.store = LatentCache()
    for batch in batches:
        step(training, frozen, batch, bf16)


def step(training: TrainingModel, frozen: FrozenLatents | None, batch: dict[str, Any], bf16: bool) -> None:
    """Forward and backward of one micro-batch."""
    values = {name: tensor.to(training.model.device) for name, tensor in batch.items() if name != "rows"}
    with torch.autocast(training.model.device.type, torch.bfloat16, enabled=bf16):
        loss = training(**(frozen.fill(values) if frozen else values))["loss"]
    loss.backward()
    training.zero_grad()


def in_turn(work: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """Seconds of the fastest round of each; on the CPU those that this process had, whatever else ran."""
    gpu = torch.cuda.is_available()
    clock, best = time.perf_counter if gpu else time.process_time, [math.inf] * len(work)
    for _ in range(rounds):
        for place, run in enumerate(work):
            start = clock()
            run()
            if gpu:
                torch.cuda.synchronize()
            best[place] = min(best[place], clock() - start)
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", help="base model; by default clara-tiny's")
    parser.add_argument("--checkpoint", default="clara-tiny", help="what stages 2 and 3 start from")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="the best one counts (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=32, help="rows of a step")
    parser.add_argument("--micro", type=int, default=8, help="rows of a forward pass")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--torch_compile", action="store_true", help="the step compiled, against it as it is")
    parser.add_argument("--quantization", choices=("int8", "int4"), default="", help="of the base; wants --bf16")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--padding", metavar="FILE", help="only the shares of padding of stage 1 on these rows")
    arguments = parser.parse_args()
    base = arguments.base or str(Path(files.locate("clara-tiny")) / "base")
    if arguments.padding:
        Console().print(padding(base, arguments))
        return
    table = Table("stage", "tokens/s", "padding", "ratio to bare products", "latents reused", "memory (GB)")
    if arguments.torch_compile:
        table.add_column("time compiled")
    for stage in arguments.stages:
        table.add_row(*measure(stage, base, arguments.checkpoint, arguments))
    Console().print(table)


if __name__ == "__main__":
    main()

"""What a base in 8 or 4 bits costs: answers, time and training beside its bytes, against the base in bfloat16.

Questions with their candidates, answered with each; then some steps of stage 2 on the same rows, adapters alone.

    python examples/benchmarks/quantized_base.py                 # clara-tiny, held-out questions of its made-up world
    python examples/benchmarks/quantized_base.py --model clara-small --rows nq.jsonl    # rows of the evaluation's form

Needs the extras ``train`` and ``quantization``. On the CPU the times are CPU time (OMP_NUM_THREADS=1); what a GPU
takes is not known from them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from element_types import Outcome, compared, outcome, questions

from clara_model import Clara
from clara_model.inference.published import ClaraModel
from trainers.data.row import Row
from trainers.training.run import train
from trainers.training.train_config import TrainConfig

KINDS = ("", "int8", "int4")
BATCH = 4
"""Rows of a training step."""


def nbytes(model: ClaraModel) -> int:
    """Of the base's weights as they are kept, scales included; a tied matrix counts once."""
    tensors = [tensor for name, tensor in model.base.state_dict().items() if ".lora_" not in name]
    return sum({one.data_ptr(): one.nbytes for one in tensors if isinstance(one, torch.Tensor)}.values())


def answered(name: str, kind: str, rows: Sequence[Row]) -> tuple[int, Outcome, float]:
    """Bytes of the base, what became of each question, and seconds of CPU time for one."""
    with Clara.load(name, dtype="bfloat16", device="cpu", quantization=kind or None) as clara:
        latents = [clara.compress(list(row.documents)) for row in rows]
        start = time.process_time()
        found = outcome(clara, rows, latents)
        return nbytes(clara.model), found, (time.process_time() - start) / len(rows)


def gold_first(row: Row) -> list[str]:
    """Its documents, those that answer the question first: stage 2 reads only the first ones."""
    order = sorted(range(len(row.documents)), key=lambda place: place not in row.positives)
    return [row.documents[place] for place in order]


def losses(name: str, kind: str, rows: Sequence[Row], steps: int) -> tuple[list[float], float]:
    """Of each step of stage 2, and seconds of CPU time for one, loading and saving included."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        lines = [{"question": one.questions[0], "docs": gold_first(one), "answer": one.answers[0]} for one in rows]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        run = TrainConfig.for_stage(
            "instruct",
            pretrain_checkpoint=name,
            dataset=file,
            save_path=Path(folder) / "run",
            quantization=kind,
            bf16=True,
            use_cpu=True,
            keep_generator=True,
            mse_loss=False,
            learning_rate=3e-4,
            lr_scheduler="constant",
            lora_dropout=0.0,
            train_batch_size=BATCH,
            micro_train_batch_size=BATCH,
            max_epochs=steps,
            max_steps=steps,
            save_steps=-1,
            save_minutes=0,
        )
        start = time.process_time()
        log = (train(run) / "log.jsonl").read_text(encoding="utf-8").splitlines()
        seconds = (time.process_time() - start) / steps
    return [line["loss"] for line in map(json.loads, log) if "loss" in line], seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="clara-tiny", help="default: %(default)s")
    parser.add_argument("--rows", help="a file of questions with their candidates; by default clara-tiny's own")
    parser.add_argument("--questions", type=int, default=100, help="how many of them (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of training (default: %(default)s)")
    arguments = parser.parse_args()
    table(arguments.model, questions(arguments.rows, arguments.questions), arguments.steps)


def table(name: str, rows: Sequence[Row], steps: int) -> None:
    """A line for each kind."""
    print(f"\n{len(rows)} questions; {steps} steps of {BATCH} rows, losses of the first and the last quarter\n")
    head = "largest change of a score | same first | same best | right | F1 | same answer | s per answer"
    print(f"| base | MB | {head} | losses | s per step |\n|---|---|---|---|---|---|---|---|---|---|---|")
    before = None
    for kind in KINDS:
        size, found, seconds = answered(name, kind, rows)
        before = before or found
        loss, step = losses(name, kind, rows, steps)
        quarter = max(1, len(loss) // 4)
        ends = ", ".join(f"{sum(part) / quarter:.3f}" for part in (loss[:quarter], loss[-quarter:]))
        cells = f"{size / 1e6:.1f} | {compared(before, found, rows)} | {seconds:.3f} | {ends} | {step:.2f}"
        print(f"| {kind or 'bfloat16'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

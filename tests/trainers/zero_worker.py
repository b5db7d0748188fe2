"""Runs of one process or, under torchrun, of several: ``zero_worker.py JOBS.json``.

Each job is ``{"config": {..}, "out": FILE, "from": STEP or null}``; the first step's gradients of all that trains are
written to ``out``. ``from`` drops later checkpoints and goes on from that step.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import torch
from transformers import TrainerCallback

from trainers import processes
from trainers.training import checkpointing, run
from trainers.training.train_config import TrainConfig
from trainers.training.trainer import ClaraTrainer


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step, of one process as they are, of several whole and averaged."""

    found: ClassVar[dict[str, torch.Tensor]] = {}

    def __init__(self) -> None:
        Gradients.found = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if not Gradients.found and args.world_size == 1:
            named = trainable(model)
            Gradients.found = {name: parameter.grad.clone() for name, parameter in named.items()}


def trainable(training) -> dict[str, torch.nn.Parameter]:
    model = training.model
    return model.trainable_parameters(model.trainable_roles)


def watch_engine() -> None:
    """DeepSpeed steps inside its backward pass, so its own step is where gradients are whole."""
    prepare = ClaraTrainer._prepare_for_training

    def watched(self, *args):
        prepared = prepare(self, *args)
        if self.is_deepspeed_enabled:
            from deepspeed.utils import safe_get_full_grad

            engine, step = self.model_wrapped, self.model_wrapped.step

            def observed(*more, **named):
                if not Gradients.found and engine.is_gradient_accumulation_boundary():
                    parameters = trainable(self.clara)
                    Gradients.found = {name: safe_get_full_grad(p).clone() for name, p in parameters.items()}
                return step(*more, **named)

            engine.step = observed
        return prepared

    ClaraTrainer._prepare_for_training = watched


def main() -> None:
    """All jobs, one after the other."""
    torch.set_num_threads(1)
    watch_engine()
    run.callbacks.Progress = Gradients
    first = os.environ.get("RANK", "0") == "0"
    for job in json.loads(Path(sys.argv[1]).read_text()):
        values = dict(job["config"])
        config = TrainConfig.for_stage(values.pop("stage"), **values)
        if job.get("from"):
            if first:
                for folder in checkpointing.whole_checkpoints(Path(config.save_path)):
                    if checkpointing.step_of(folder) > job["from"]:
                        shutil.rmtree(folder)
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
        run.train(config)
        if first:
            torch.save(Gradients.found, job["out"])
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
    processes.stop()


if __name__ == "__main__":
    main()

"""A training run that kills itself: ``python killed_run.py CONFIG.yaml step N`` or ``.. save N``.

``step N``: after optimisation step N. ``save N``: in the middle of writing the checkpoint of step N.
"""

import os
import signal
import sys

import torch
import yaml
from transformers import TrainerCallback

from trainers.training import run, trainer
from trainers.training.train_config import TrainConfig


def die() -> None:
    """No clean-up, no exit handlers."""
    os.kill(os.getpid(), signal.SIGKILL)


class KilledAfterStep(TrainerCallback):
    """Dies after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            die()


def killed_while_saving(step: int) -> None:
    """Die once half of the checkpoint's files are there."""
    whole = trainer.ClaraTrainer._save_rng_state

    def halfway(self, output_dir: str) -> None:
        if self.state.global_step == step:
            die()
        whole(self, output_dir)

    trainer.ClaraTrainer._save_rng_state = halfway


def main() -> None:
    """Train until death."""
    torch.set_num_threads(1)
    path, what, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(path, encoding="utf-8") as file:
        values = yaml.safe_load(file)
    if what == "save":
        killed_while_saving(step)
    else:
        run.callbacks.Progress = lambda: KilledAfterStep(step)
    run.train(TrainConfig.for_stage(values.pop("stage"), **values))


if __name__ == "__main__":
    main()

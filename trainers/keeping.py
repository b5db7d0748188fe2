"""Which weights a run keeps beside its regular checkpoints: every so many minutes, and those of the best evaluation.

The best ones lie in ``best`` beside the checkpoints and become the trained checkpoint at the end; `TrainerState` holds
their figure and step, so a resumed run goes on comparing.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from trainers.training.trainer import ClaraTrainer

logger = logging.getLogger(__name__)

BEST = "best"
AGREE_EVERY = 10
"""Steps between two looks at the clock in a run of several processes, which must agree."""


class SaveByTime(TrainerCallback):
    """Asks for a checkpoint when the last one is old."""

    def __init__(self, minutes: float) -> None:
        """The clock starts with the training."""
        self.seconds, self._last = 60 * minutes, time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start it again."""
        self._last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look at it."""
        if args.world_size == 1 or state.global_step % AGREE_EVERY == 0:
            control.should_save |= _of_the_first(time.monotonic() - self._last >= self.seconds, args.device)


def _of_the_first(answer: bool, device: torch.device) -> bool:
    """The first process's answer, for all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return answer
    shared = torch.tensor([int(answer)], device=device)
    dist.broadcast(shared, src=0)
    return bool(shared.item())


class BestCheckpoint(TrainerCallback):
    """Keeps the weights of the best evaluation, and ends a run that gets no better."""

    def __init__(self, trainer: ClaraTrainer, metric: str, patience: int) -> None:
        """Nothing is evaluated yet.

        Args:
            trainer: writes the weights.
            metric: a figure of the evaluation, e.g. ``em``; of losses a lower one is better.
            patience: evaluations without a better figure that end the run; 0: none do.
        """
        self.trainer, self.name, self.patience = trainer, f"eval_{metric.removeprefix('eval_')}", patience
        self.folder = trainer.save_path / BEST

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Compare, keep, or end.

        Raises:
            ClaraError: the evaluation has no such figure.
        """
        found = metrics or {}
        if self.name not in found:
            known = ", ".join(name.removeprefix("eval_") for name in found)
            raise ClaraError(
                f"best_metric {self.name.removeprefix('eval_')!r} is not evaluated here; there are {known}"
            )
        if self._is_better(found[self.name], state.best_metric):
            state.best_metric, state.best_global_step = found[self.name], state.global_step
            self._keep()
        elif self.patience and self._since(state) >= self.patience:
            logger.info(
                "%s has not been better than %.4g (step %d) for %d evaluations: the run ends",
                self.name,
                state.best_metric,
                state.best_global_step,
                self._since(state),
            )
            control.should_training_stop = True

    def _is_better(self, now: float, best: float | None) -> bool:
        return best is None or (now < best if self.name.endswith("loss") else now > best)

    def _since(self, state: TrainerState) -> int:
        """Evaluations after the best one, from the run's whole history."""
        best = state.best_global_step or 0
        return len({line["step"] for line in state.log_history if self.name in line and line["step"] > best})

    def _keep(self) -> None:
        """Write under another name first, so that what lies in ``best`` is whole."""
        written = self.folder.with_name(f".{BEST}")
        self.trainer.save_model(str(written))
        if self.trainer.args.should_save:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.replace(written, self.folder)

    def install(self, save_path: Path) -> None:
        """Make the best weights the trained checkpoint, where there are any."""
        state = self.trainer.state
        if not self.trainer.args.should_save or state.best_global_step is None or not self.folder.is_dir():
            return
        for file in self.folder.iterdir():
            shutil.copy2(file, save_path / file.name)
        logger.info(
            "the trained checkpoint is that of step %d (%s %.4g)", state.best_global_step, self.name, state.best_metric
        )

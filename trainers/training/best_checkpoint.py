"""The weights of the best evaluation, kept in ``best`` beside the checkpoints; they become the trained checkpoint.

`TrainerState` holds their figure and step, so a resumed run goes on comparing. `transformers` needs a checkpoint at
every evaluation for it (``load_best_model_at_end``), and its `EarlyStoppingCallback` counts anew after a resume.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from trainers.training.trainer import ClaraTrainer

logger = logging.getLogger(__name__)
BEST = "best"


class BestCheckpoint(TrainerCallback):
    """Keeps the weights of the best evaluation, and ends a run that gets no better."""

    def __init__(self, trainer: ClaraTrainer, metric: str, patience: int) -> None:
        """By a figure of the evaluation, e.g. ``em``; of losses a lower one is better.

        So many (``patience``) evaluations without a better figure end the run; 0: none do.
        """
        self.trainer, self.name, self.patience = trainer, f"eval_{metric.removeprefix('eval_')}", patience
        self.folder = trainer.save_path / BEST

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Compare, keep, or end. Raises `ClaraError`: the evaluation has no such figure."""
        metrics = more["metrics"]
        if self.name not in metrics:
            asked, *known = (name.removeprefix("eval_") for name in (self.name, *metrics))
            raise ClaraError(f"best_metric {asked!r} is not evaluated here; there are {', '.join(known)}")
        now, best = metrics[self.name], state.best_metric
        if best is None or (now < best if self.name.endswith("loss") else now > best):
            state.best_metric, state.best_global_step = now, state.global_step
            self._keep()
            return
        step = state.best_global_step or 0  # the run's whole history counts
        since = len({line["step"] for line in state.log_history if self.name in line and line["step"] > step})
        if self.patience and since >= self.patience:
            said = "%s has not been better than %.4g (step %d) for %d evaluations: the run ends"
            logger.info(said, self.name, best, step, since)
            control.should_training_stop = True

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
        said = "the trained checkpoint is that of step %d (%s %.4g)"
        logger.info(said, state.best_global_step, self.name, state.best_metric)

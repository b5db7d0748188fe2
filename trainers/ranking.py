"""Stage 3 over its steps: temperature and warm-up by the step's number, and a warning when recall falls.

Everything follows from the step alone, so a resumed run goes on as it would have.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clara_model.modeling.objectives import TrainingModel
from trainers.settings import Settings

logger = logging.getLogger(__name__)

WINDOW = 20
"""Log lines whose mean recall is compared."""
FALL = 0.02
"""Fall of recall@1 that is worth a warning."""


class RankingSchedule(TrainerCallback):
    """Sets what the step's number decides before each step."""

    def __init__(self, training: TrainingModel, config: Settings) -> None:
        """Keep both."""
        self.training, self.config = training, config

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The temperature falls evenly in its logarithm; in the warm-up the ranking alone is taught."""
        config = self.config
        share = min(1.0, state.global_step / max(1, state.max_steps - 1))
        start = config.temperature_start or config.temperature
        self.training.temperature = start * (config.temperature / start) ** share
        self.training.warming_up = state.global_step < config.ranking_warmup


class RecallWatch(TrainerCallback):
    """Warns when recall@1 of the last `WINDOW` log lines is below that of the first ones."""

    def __init__(self) -> None:
        """Nothing is known of the run before its first lines."""
        self.warned = False

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Compare, from the whole history, so also after a resume."""
        recalls = [line["recall@1"] for line in state.log_history if "recall@1" in line]
        if self.warned or not state.is_world_process_zero or len(recalls) < 2 * WINDOW:
            return
        start, now = sum(recalls[:WINDOW]) / WINDOW, sum(deque(recalls, WINDOW)) / WINDOW
        if now < start - FALL:
            self.warned = True
            logger.warning(
                "recall@1 is %.3f over the last %d log lines, it was %.3f at the start: the ranking gets worse; try a "
                "lower --query_learning_rate, --temperature_start, or --ranking_loss with --ranking_warmup",
                now,
                WINDOW,
                start,
            )

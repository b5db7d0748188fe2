"""Rows held against the stage that shall learn from them: what it refuses, and whose questions `max_len` shortens.

It collates every row as training does, so nothing is seen here that a run would not meet, and nothing is missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clara_model.errors import ClaraError
from trainers.data.fit import unfit
from trainers.data.row import Row
from trainers.data.sampling import TrainingItem
from trainers.training.train_config import PUBLISHED_STAGES, STAGE_DEFAULTS

if TYPE_CHECKING:
    from clara_model.modeling.objectives import Stage
    from clara_model.modeling.tokens import Tokens


class StageCheck:
    """The rules and lengths of one stage."""

    def __init__(self, stage: str, tokens: Tokens | None = None, *, max_len: int = 0, documents: int = 0) -> None:
        """Nothing is read yet.

        Args:
            stage: as ``clara-train --stage`` has it.
            tokens: of the model that shall be trained; without it lengths are not looked at.
            max_len: ``clara-train --max_len``; 0 for the stage's own.
            documents: ``clara-train --generation_top_k``; 0 for the stage's own.

        Raises:
            ClaraError: there is no such stage.
        """
        name = PUBLISHED_STAGES.get(stage, stage)
        if name not in STAGE_DEFAULTS:
            raise ClaraError(f"stage must be one of {', '.join([*STAGE_DEFAULTS, *PUBLISHED_STAGES])}, got {stage!r}")
        self.stage: Stage = name  # type: ignore[assignment]
        self.max_len = max_len or int(STAGE_DEFAULTS[name]["max_len"])
        self.documents = documents or int(STAGE_DEFAULTS[name]["generation_top_k"])
        self.prefer_gold = name == "end_to_end"
        self._collate = None
        if tokens is not None:
            from trainers.data.collator import Collator

            self._collate = Collator(tokens, self.stage, top_k=self.documents, max_length=self.max_len)

    def look_at(self, row: Row) -> tuple[str, int]:
        """Why the stage cannot learn from a row, empty where it can; and how many of its questions are shortened."""
        fault = unfit(row, self.stage, self.documents)
        if fault or self._collate is None:
            return fault, 0
        try:
            batch = self._collate([TrainingItem(row, 0, 0)])
        except ClaraError as error:
            return str(error).removeprefix(f"{row.source}: "), 0
        return "", int(batch["shortened"]) if "shortened" in batch else 0

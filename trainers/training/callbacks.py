"""What a run shows and leaves behind (progress, ``log.jsonl``, ``loss_curve.png``); what a step's number decides."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clara_model.errors import ClaraError
from clara_model.modeling.objectives import TrainingModel
from clara_model.modeling.tokens import Tokens
from trainers.data.sampling import TrainingItem, TrainingOrder
from trainers.training.train_config import TrainConfig

if TYPE_CHECKING:
    from trainers.training.trainer import ClaraTrainer

logger = logging.getLogger(__name__)

SHOWN = {"loss": "loss", "alignment_loss": "align", "recall@1": "r@1", "recall@3": "r@3", "recall@5": "r@5"}
SHOWN |= {"tokens_per_second": "tok/s"}


def short(logs: dict[str, float]) -> str:
    """The most telling figures, in one line."""
    shown = [f"{name} {logs[key]:.4g}" for key, name in SHOWN.items() if key in logs]
    return " ".join(shown + [f"{key} {value:.4g}" for key, value in logs.items() if key.startswith("eval_")])


class Progress(TrainerCallback):
    """A progress bar on a terminal, log lines elsewhere."""

    bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        if self.bar is not None and "loss" in logs:
            self.bar.set_postfix_str(short(logs))
        else:
            logger.info("step %d/%d %s", state.global_step, state.max_steps, short(logs))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class RunRecorder(TrainerCallback):
    """``log.jsonl`` and ``loss_curve.png`` in ``save_path``, from the run's whole history, also after a resume."""

    def __init__(self, save_path: Path) -> None:
        self.save_path, self._begun = save_path, False

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Add the last line; what an interrupted run wrote past its checkpoint is dropped."""
        if not state.is_world_process_zero:
            return
        path = self.save_path / "log.jsonl"
        if not self._begun:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(line) + "\n" for line in state.log_history[:-1]), encoding="utf-8")
            self._begun = True
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(state.log_history[-1]) + "\n")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Draw the curve, which is no reason to lose a run where matplotlib is not installed."""
        if not state.is_world_process_zero or not any("loss" in line for line in state.log_history):
            return
        if find_spec("matplotlib") is None:
            install = "pip install 'clara-integrations[plots]' (log.jsonl has all the figures)"
            logger.warning("loss_curve.png is not drawn: it needs matplotlib; install it with: %s", install)
        else:
            draw(state.log_history, self.save_path / "loss_curve.png")


def draw(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Losses, and recall where there is any, over the steps."""
    from matplotlib.figure import Figure  # an extra

    panels = [("loss", "alignment_loss", "eval_loss"), ("recall@1", "recall@3", "recall@5")]
    found = [[name for name in names if any(name in line for line in history)] for names in panels]
    found = [names for names in found if names]
    figure = Figure(figsize=(5 * len(found), 3.5), layout="tight")
    axes = figure.subplots(1, len(found), squeeze=False)
    for axis, names in zip(axes[0], found, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in history if name in line]
            axis.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 20 else None, markersize=3)
        axis.set_xlabel("step")
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def reporters(config: TrainConfig) -> list[TrainerCallback]:
    """Tensorboard or Weights & Biases, as asked for. Raises `ClaraError`: what was asked for is not installed."""
    from transformers.integrations import TensorBoardCallback, WandbCallback
    from transformers.integrations.integration_utils import is_tensorboard_available, is_wandb_available

    found: list[TrainerCallback] = []
    if config.use_tensorboard:
        if not is_tensorboard_available():
            raise ClaraError("use_tensorboard needs tensorboard; install clara-integrations[train]")
        callback = TensorBoardCallback()
        name = config.wandb_run_name or Path(config.save_path).name
        callback.logging_dir = os.path.join(config.use_tensorboard, name)
        found.append(callback)
    if config.use_wandb:
        if not is_wandb_available():
            raise ClaraError("use_wandb needs wandb; pip install wandb, or use --use_tensorboard FOLDER")
        places = {"PROJECT": config.wandb_project, "ENTITY": config.wandb_org, "RUN_GROUP": config.wandb_group}
        for name, value in places.items():  # what the environment says already stays
            if value:
                os.environ.setdefault(f"WANDB_{name}", value)
        if config.use_wandb.lower() != "true":
            os.environ["WANDB_API_KEY"] = config.use_wandb
        found.append(WandbCallback())
    return found


PREVIEW = "preview.txt"
BATCHES = 3
SHOWN_ROWS = 4
"""Sequences of a batch that are written out."""
Collate = Callable[[Sequence[TrainingItem]], dict[str, Tensor]]


def write_preview(order: TrainingOrder, collate: Collate, rows: int, tokens: Tokens, folder: Path) -> None:
    """Decode the first batches of a run, of so many rows each, into ``preview.txt``."""
    parts = []
    for number in range(min(BATCHES, -(-len(order) // rows))):
        places = range(number * rows, min((number + 1) * rows, len(order)))
        parts.append(f"=== batch {number + 1} ===\n{_batch(collate([order[place] for place in places]), tokens)}")
    (folder / PREVIEW).write_text("\n".join(parts), encoding="utf-8", errors="replace")
    logger.info("the first %d batches are written out in %s", len(parts), folder / PREVIEW)


def _batch(batch: dict[str, Tensor], tokens: Tokens) -> str:
    def text(ids_T: Tensor, mask_T: Tensor) -> str:
        """One line, special tokens as they are, the slots of a document in short."""
        said = str(tokens.tokenizer.decode(ids_T[mask_T.bool()].tolist()))
        return repr(said.replace(tokens.slots(1), "<SLOTS>").replace("".join(tokens.memory_tokens), "<MEMORY>"))

    lines = [", ".join(f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in batch.items())]
    for row in range(min(SHOWN_ROWS, len(batch["rows"]))):
        if "question_ids" in batch:
            lines.append(f"[question] {text(batch['question_ids'][row], batch['question_mask'][row])}")
        if "positives" in batch:
            gold = batch["positives"][row].nonzero()[:, 0].tolist()
            lines.append(f"[candidates] {int((batch['document_index'][row] >= 0).sum())}, gold at {gold}")
        if "prompt_ids" in batch and row < len(batch["prompt_ids"]):
            ids, mask, learned = batch["prompt_ids"][row], batch["prompt_mask"][row], batch["labels"][row] != -100
            lines += [f"[prompt] {text(ids, mask * ~learned)}", f"[learned] {text(ids, mask * learned)}"]
    for row in range(min(SHOWN_ROWS, len(batch.get("document_ids", [])))):
        lines.append(f"[document {row}] {text(batch['document_ids'][row], batch['document_mask'][row])}")
    return "\n".join(lines) + "\n"


WINDOW = 20
"""Log lines whose mean recall is compared."""
FALL = 0.02
"""Fall of recall@1 that is worth a warning."""
AGREE_EVERY = 10
"""Steps between two looks at the clock in a run of several processes, which must agree."""


class RankingSchedule(TrainerCallback):
    """Before each step: the temperature falls evenly in its logarithm; in the warm-up the ranking alone is taught."""

    def __init__(self, training: TrainingModel, config: TrainConfig) -> None:
        self.training, self.config = training, config

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        config = self.config
        share = min(1.0, state.global_step / max(1, state.max_steps - 1))
        start = config.temperature_start or config.temperature
        self.training.temperature = start * (config.temperature / start) ** share
        self.training.warming_up = state.global_step < config.ranking_warmup


class RecallWatch(TrainerCallback):
    """Warns, once, when recall@1 of the last `WINDOW` log lines is below that of the first ones."""

    warned = False

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        recalls = [line["recall@1"] for line in state.log_history if "recall@1" in line]
        if self.warned or not state.is_world_process_zero or len(recalls) < 2 * WINDOW:
            return
        start, now = fmean(recalls[:WINDOW]), fmean(recalls[-WINDOW:])
        if now < start - FALL:
            self.warned = True
            logger.warning(
                "recall@1 is %.3f over the last %d log lines, it was %.3f at the start: the ranking gets worse; try a "
                "lower --query_learning_rate, --temperature_start, or --ranking_loss with --ranking_warmup",
                *(now, WINDOW, start),
            )


class SaveByTime(TrainerCallback):
    """Asks for a checkpoint when the last one, or the start of the training, is so many minutes ago."""

    def __init__(self, minutes: float) -> None:
        self.seconds, self._last = 60 * minutes, time.monotonic()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._last = time.monotonic()

    on_train_begin = on_save

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look at the clock: all processes at the first one's."""
        if args.world_size > 1 and state.global_step % AGREE_EVERY:
            return
        due = torch.tensor(int(time.monotonic() - self._last >= self.seconds), device=args.device)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(due, src=0)
        control.should_save |= bool(due)


BEST = "best"


class BestCheckpoint(TrainerCallback):
    """Keeps the weights of the best evaluation in ``best`` beside the checkpoints, and ends a run that gets no better.

    `TrainerState` holds their figure and step, so a resumed run goes on comparing. `transformers` needs a checkpoint at
    every evaluation for it (``load_best_model_at_end``), and its `EarlyStoppingCallback` counts anew after a resume.
    """

    def __init__(self, trainer: ClaraTrainer, metric: str, patience: int) -> None:
        """``metric``: e.g. ``em``, or a loss; so many (``patience``) evaluations without a better one end the run."""
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

"""`ClaraTrainer`: `transformers.Trainer` with CLaRa's losses, running means, and checkpoints of what trains alone.

Gradient accumulation is exact: every loss is divided by the count of the whole step over all processes
(`modeling.training_batch.step_counts`).
"""

from __future__ import annotations

import itertools
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from clara_model.checkpoint import files
from clara_model.errors import ClaraError
from clara_model.inference.published import ClaraModel
from clara_model.modeling.objectives import TrainingModel
from clara_model.modeling.training_batch import step_counts
from trainers import deepspeed_utils
from trainers.data.rows import single_questions
from trainers.data.sampling import TrainingOrder
from trainers.evaluation.in_training import EvaluationConfig
from trainers.evaluation.in_training import evaluate as answer
from trainers.evaluation.metrics import RECALL_AT, SCORES, recall_sums
from trainers.training import checkpointing, optimizer_state
from trainers.training.latent_reuse import FrozenLatents

LOSSES = ("lm_loss", "alignment_loss", "retrieval_loss", "ranking_loss")
"""In the order of their divisors in `step_counts`."""


class Means:
    """Running sums since the last log line, kept on the device until they are read."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clear()

    def clear(self) -> None:
        """Start anew."""
        self.losses = torch.zeros(len(LOSSES), device=self.device)
        self.recalls = torch.zeros(len(RECALL_AT) + 1, device=self.device)
        self.tokens = torch.zeros(1, device=self.device, dtype=torch.float64)
        self.shortened = torch.zeros(1, device=self.device)
        self.started = time.perf_counter()

    def add(self, outputs: dict[str, Tensor], inputs: dict[str, Tensor]) -> None:
        """One micro-batch, its losses as their part of the step."""
        for place, name in enumerate(LOSSES):
            if name in outputs:
                self.losses[place] += outputs[name].float()
        if "scores" in outputs and "positives" in inputs:
            self.recalls += recall_sums(outputs["scores"], inputs["positives"]).float()
        for name in ("document_mask", "question_mask", "prompt_mask"):
            if name in inputs:
                self.tokens += inputs[name].sum()


class ClaraTrainer(transformers.Trainer):
    """Trains a `TrainingModel` on a `TrainingOrder`."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: TrainingModel,
        args: transformers.TrainingArguments,
        epochs: int = 1,
        answering: EvaluationConfig | None = None,
        rate_change: float = 1.0,
        frozen: FrozenLatents | None = None,
        query_learning_rate: float = 0.0,
        **more: Any,
    ) -> None:
        """As `transformers.Trainer`; ``args.output_dir`` receives the checkpoints.

        Args:
            model, args: what is trained, and `transformers`' settings.
            epochs: how many the training order holds, for the log.
            answering: evaluate by generating answers too.
            rate_change: a resumed run's learning rates are multiplied by it.
            frozen: latents that need not be made anew (stages that rank).
            query_learning_rate: of the query reasoner, 0 for that of all.
            **more: data sets, collator, callbacks.
        """
        super().__init__(model=model, args=args, **more)
        self.remove_callback(transformers.trainer_callback.PrinterCallback)
        self.epochs, self.answering, self.rate_change = epochs, answering, rate_change
        self.save_path = Path(str(args.output_dir))
        self.frozen, self.query_learning_rate = frozen, query_learning_rate
        self.means = Means(args.device)
        self._embeddings = {name: rows.cpu().clone() for name, rows in model.model.state().embeddings.items()}
        self._writing = False
        self._unseen: list[tuple[Tensor, Tensor, int]] = []

    @property
    def clara(self) -> TrainingModel:
        """The model, unwrapped."""
        model = self.model
        assert isinstance(model, TrainingModel)
        return model

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Tensor]:
        """The micro-batches of one step of this process, and the step's counts over all processes ``[4]``."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        counts = torch.zeros(len(LOSSES), dtype=torch.long, device=device)
        for batch in batches:
            if "filler" not in batch:
                counts += step_counts(batch).to(device)
        return batches, self.accelerator.reduce(counts, "sum")

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one micro-batch as its part of the whole step; gradients are averaged over processes."""
        inputs = dict(inputs)
        rows, filler, shortened = inputs.pop("rows"), inputs.pop("filler", None), inputs.pop("shortened", None)
        inputs = self._with_latents(inputs)
        outputs = model(**inputs, totals=num_items_in_batch / self.accelerator.num_processes)
        loss = outputs["loss"] * (1.0 if filler is None else 0.0)  # DeepSpeed divides its output itself by the parts
        if filler is None:
            self._watch(loss, rows)
            self.means.add(outputs, inputs)
            if shortened is not None:
                self.means.shortened += shortened
        return (loss, outputs) if return_outputs else loss

    def _with_latents(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        with self.accelerator.autocast():
            return inputs if self.frozen is None else self.frozen.fill(inputs)

    def _watch(self, loss: Tensor, rows: Tensor) -> None:
        """Have the loss looked at: on the CPU now, on a GPU with the next log line or checkpoint: no step waits."""
        self._unseen.append((loss.detach(), rows, self.state.global_step + 1))
        if loss.device.type == "cpu":
            self._check_losses()

    def _check_losses(self) -> None:
        """Stop where a loss was not finite; nothing that came after it has been saved."""
        unseen, self._unseen = self._unseen, []
        values = torch.stack([loss for loss, _, _ in unseen]).tolist() if unseen else []
        for value, (_, rows, step) in zip(values, unseen, strict=True):
            if not math.isfinite(value):
                good = checkpointing.newest_checkpoint(self.save_path)
                last = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
                names = self.train_dataset.rows if isinstance(self.train_dataset, TrainingOrder) else None
                named = ", ".join((names and names[int(row)].source) or str(int(row)) for row in rows)
                said = f"the loss is {value} at step {step}, in the batch of rows {named}; {last}"
                raise ClaraError(f"{said}; lower learning_rate, or look at these rows")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the running means to a training log line, and write it down."""
        self._check_losses()
        if "learning_rate" in logs:
            logs |= self._read_means()
        logs["epoch"] = round((self.state.epoch or 0.0) * self.epochs, 4)
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def _read_means(self) -> dict[str, float]:
        steps = max(1, self.state.global_step - getattr(self, "_means_step", self._initial_global_step))
        self._means_step = self.state.global_step
        means, reduce = self.means, self.accelerator.reduce
        losses, recalls = reduce(means.losses, "mean").tolist(), reduce(means.recalls, "sum").tolist()
        tokens, shortened = reduce(means.tokens, "sum").item(), int(reduce(means.shortened, "sum").item())
        found = {name: value / steps for name, value in zip(LOSSES, losses, strict=True) if value != 0}
        if recalls[-1]:
            found |= {f"recall@{k}": recalls[place] / recalls[-1] for place, k in enumerate(RECALL_AT)}
        signs = reduce(self.clara.gradient_signs.read().to(self.args.device), "sum").tolist()
        for name, (right, of) in {"right_signed_first": signs[:2], "right_signed_later": signs[2:]}.items():
            found |= {name: right / of} if of else {}
        if shortened:
            found["questions_shortened"] = shortened
        found["tokens_per_second"] = round(tokens / (time.perf_counter() - means.started), 1)
        means.clear()
        return found

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Losses of the evaluation rows and, where asked for, EM, F1, cover-EM and recall of generated answers."""
        dataset = eval_dataset or self.eval_dataset
        assert isinstance(dataset, TrainingOrder)
        with torch.compiler.set_stance("force_eager"):  # their lengths and caches would be compiled once each
            found = self._evaluation_losses(dataset)
            if self.answering is not None:
                found |= self._evaluation_answers(dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _shares_evaluation(self) -> bool:
        """Whether each process takes its part of the rows; ZeRO-3 needs all to make the same passes."""
        return self.accelerator.num_processes > 1 and not is_deepspeed_zero3_enabled()

    def _mine(self, items: list[Any]) -> list[Any]:
        return items[self.args.process_index :: self.args.world_size] if self._shares_evaluation() else items

    @torch.no_grad()
    def _evaluation_losses(self, dataset: TrainingOrder) -> dict[str, float]:
        model, size = self.clara, self.args.per_device_train_batch_size
        model.eval()
        sums = torch.zeros(2, len(LOSSES), device=self.args.device, dtype=torch.float64)
        places = list(range(len(dataset)))
        for batch in self._mine([places[start : start + size] for start in range(0, len(places), size)]):
            collate: Any = self.data_collator
            inputs = self._prepare_inputs(collate([dataset[place] for place in batch]))
            inputs = self._with_latents({name: inputs[name] for name in inputs if name not in ("rows", "shortened")})
            with self.compute_loss_context_manager(), self.accelerator.autocast():
                outputs = model(**inputs)
            counts = step_counts(inputs)
            for place, name in enumerate(LOSSES):
                if name in outputs:
                    sums[0, place] += outputs[name] * counts[place]
            sums[1] += counts
        model.train()
        losses, counts = self._summed(sums).tolist()
        return {name: loss / count for name, loss, count in zip(LOSSES, losses, counts, strict=True) if loss and count}

    def _evaluation_answers(self, dataset: TrainingOrder) -> dict[str, float]:
        rows = self._mine(single_questions(dataset.rows))
        report = answer(cast(ClaraModel, self.clara.model), rows, self.answering) if rows else None
        ranked = sum(bool(row.positives) for row in rows)
        weights = dict.fromkeys(SCORES, len(rows)) | dict.fromkeys([f"recall@{k}" for k in RECALL_AT], ranked)
        found = report.metrics if report else {}
        sums = [[found.get(name, 0.0) * weight, weight] for name, weight in weights.items()]
        whole = self._summed(torch.tensor(sums, device=self.args.device, dtype=torch.float64)).tolist()
        return {name: total / weight for name, (total, weight) in zip(weights, whole, strict=True) if weight}

    def _summed(self, sums: Tensor) -> Tensor:
        return cast(Tensor, self.accelerator.reduce(sums, "sum")) if self._shares_evaluation() else sums

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The parent's, the query reasoner in a group of its own where it has a rate of its own.

        Without the parent's empty group, which DeepSpeed drops: any number of processes has equal groups.
        """
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made:
            groups = [group for group in optimizer.param_groups if group["params"]]
            optimizer.param_groups = [part for group in groups for part in self._by_role(group)]
        return optimizer

    def _by_role(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        if not self.query_learning_rate:
            return [group]
        query = {id(weight) for weight in self.clara.model.trainable_parameters(["query_reasoner"]).values()}
        parts = [[weight for weight in group["params"] if (id(weight) in query) == own] for own in (True, False)]
        rates = (self.query_learning_rate, group["lr"])
        return [{**group, "params": part, "lr": rate} for part, rate in zip(parts, rates, strict=True) if part]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write under a temporary name, then rename; older ones beyond ``save_total_limit`` are dropped.

        Overridden because nothing public is called before the files have their names.
        """
        step, folder = self.state.global_step, self.args.output_dir
        if self.args.should_save:
            checkpointing.clear_partial(self.save_path)
        self.accelerator.wait_for_everyone()
        self._writing = True
        self.args.output_dir = str(self.save_path / checkpointing.PARTIAL)
        try:
            with checkpointing.explained(self.save_path, f"checkpoint {step}"):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    checkpointing.publish(self.save_path, step, self.args.save_total_limit or 1)
        finally:
            self._writing, self.args.output_dir = False, folder
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a loadable checkpoint: roles, memory rows, rows of added tokens."""
        self._check_losses()
        state = self.checkpoint()
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            with nullcontext() if self._writing else checkpointing.explained(self.save_path, "the trained checkpoint"):
                files.write(state, folder)

    def checkpoint(self) -> files.Checkpoint:
        """The model's weights as they are saved; every process must ask for them."""
        model = self.clara.model
        parameters = model.trainable_parameters(model.config.roles)
        with deepspeed_utils.gathered(list(parameters.values())):
            weights = {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
        parts: dict[str, dict[str, Tensor]] = {head: {} for head in ("memory", "residual", *model.config.roles)}
        for name, weight in weights.items():
            head, _, rest = name.partition(".")
            parts[head][name if head == "residual" else rest] = weight
        memory, residual = parts.pop("memory"), parts.pop("residual")
        return files.Checkpoint(model.config, parts, memory, dict(self._embeddings), residual)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Nothing: the weights are in the model already, before DeepSpeed splits them (`trainers.training.run.train`).

        Overridden because the parent's looks for a whole model's files.
        """

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """One file for any number of processes.

        Overridden because the parent has DeepSpeed write each process's part, and the frozen base with it.
        """
        state = self._optimizer_state().gathered()
        if self.args.should_save and self.lr_scheduler is not None:
            torch.save(state, Path(output_dir) / optimizer_state.NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """The parent's for a new run, on weights that are split where the run splits them; then the optimizer's state.

        Overridden because the parent has DeepSpeed read its own checkpoint, and nothing public comes before the
        scheduler's first use.
        """
        deepspeed_utils.split(self.clara, self.args)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            folder = Path(resume_from_checkpoint)
            self._optimizer_state().set(optimizer_state.read(folder))
            scheduler: Any = self.lr_scheduler
            scheduler.load_state_dict(optimizer_state.load(folder / "scheduler.pt"))
            if self.rate_change != 1.0:
                optimizer_state.scale_rates(self.optimizer, scheduler, self.rate_change)
        return prepared

    def _optimizer_state(self) -> optimizer_state.OptimizerState:
        model = self.clara.model
        named = model.trainable_parameters(model.trainable_roles)
        return optimizer_state.OptimizerState(self.optimizer, {k: p for k, p in named.items() if p.requires_grad})

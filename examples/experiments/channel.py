"""How a base model learns to read latents: ways to teach stage 1 of `clara-small`, from one seed, on the same windows.

Each setting starts at rate 3 from the text reader's generator (or from the untrained base) and learns from the same
windows in the same order: `--steps` steps of six windows with all their questions; a warm-up restates or continues the
first third of them. Measured on held-out windows: the loss of the answers' tokens, and F1 and exact match of the first
questions of a seeded order.

    python examples/experiments/channel.py ~/.cache/clara-small [--steps 20] [--only NAME ..]

The folder is `examples/small/train.py`'s: its data and its text reader. What was measured is kept in ``channel`` there
and not measured again. The losses and batches are `clara-train`'s; the loop is this file's, because a teacher's
distributions are no setting of a run.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "small"))
from measure import drawn, read_latents
from train import BASE

from clara_model import ClaraModel
from clara_model.modeling.objectives import Objective, TrainingModel
from clara_model.modeling.training_batch import TrainingBatch
from trainers.data.collator import Collator
from trainers.data.row import Row
from trainers.data.rows import read_rows
from trainers.data.sampling import TrainingItem
from trainers.training.stages import starting_model
from trainers.training.train_config import TrainConfig

PROMPTS = Path(__file__).parents[1] / "small" / "prompts.json"
RATE, LENGTH, WINDOWS, SEED = 3, 129, 6, 4
RISING = 3
"""Steps in which the learning rate rises to `PEAK`; then it falls to a tenth, as a cosine."""
PEAK = 8e-4
LOSSES, ANSWERED = 60, 60


@dataclass(frozen=True)
class Setting:
    """One way to teach."""

    read_first: bool = True
    """Start from the text reader's generator."""
    states: bool = False
    """Let the compressor's states at the memory tokens in: its adapter and the gate learn too."""
    warm_up: str = ""
    """What is learned in the first third: ``restate`` the text, or ``continue`` it from the latents of its half."""
    teacher: float = 0.0
    """Share of the loss that is the divergence from the text reader's distributions."""
    rank: int = 16


SETTINGS = {
    "anchors alone": Setting(),
    "the text reader's distributions, half of the loss": Setting(teacher=0.5),
    "memory tokens' states too, positions appended": Setting(states=True),
    "a third on restating the text": Setting(warm_up="restate"),
    "a third on continuing the text": Setting(warm_up="continue"),
    "without having read text": Setting(read_first=False),
    "without having read text, rank 8": Setting(read_first=False, rank=8),
    "without having read text, rank 32": Setting(read_first=False, rank=32),
}


class Reading(TrainingModel):
    """Stage 1 with latents that are the residual alone, or with a teacher that reads the text."""

    def __init__(self, model: ClaraModel, setting: Setting, teacher: TrainingModel | None) -> None:
        super().__init__(model, Objective(stage="pretrain", alignment_weight=0.0))
        self.setting, self.teacher = setting, [teacher] if teacher else []  # a list: not a part of this model

    def losses(self, tensors: dict[str, Tensor], texts: dict[str, Tensor] | None) -> Tensor:
        """The batch's loss, a mean over its labels."""
        batch = TrainingBatch(**tensors)
        ids, mask, index = batch.given("document_ids", "document_mask", "document_index")
        latents = self.model.encode("compressor", ids, mask)[0] if self.setting.states else self._sums(ids, mask)
        logits, targets = self.label_logits(latents[index[index >= 0]], batch.prompts())
        loss = F.cross_entropy(logits.float(), targets)
        if texts is None or not self.teacher:
            return loss
        with torch.no_grad():
            shown, _ = self.teacher[0].label_logits(torch.empty(0), TrainingBatch(**texts).prompts())
        vocabulary = self.model.tokens.added_ids[0]  # the two have other added tokens
        wanted, own = (one[:, :vocabulary].float().log_softmax(dim=-1) for one in (shown, logits))
        apart = F.kl_div(own, wanted, reduction="batchmean", log_target=True)
        return (1 - self.setting.teacher) * loss + self.setting.teacher * apart

    def _sums(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model.latents("compressor", ids, mask)


class Texts:
    """The windows of a run in order, and the batches of each step."""

    def __init__(self, model: ClaraModel, setting: Setting, rows: Sequence[Row], steps: int) -> None:
        self.setting, self.steps = setting, steps
        config = model.config
        plain = {"restate": "{memory}\nRepeat the text.", "continue": "{memory}\nContinue the text."}
        if setting.warm_up:
            user = replace(config.prompts.paraphrase, user=(plain[setting.warm_up],))
            model.config = model.tokens.config = replace(config, prompts=replace(config.prompts, paraphrase=user))
        self.collate = Collator(model.tokens, "pretrain", joined_pairs=False, seed=SEED)
        self.as_text = Collator(model.tokens, "read_text", joined_pairs=False, seed=SEED)
        self.rows = iter(rows)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor] | None]]:
        warm = self.steps // 3 if self.setting.warm_up else 0
        for step in range(self.steps):
            rows = [next(self.rows) for _ in range(WINDOWS)]
            if step < warm:
                rows = [self._plain(row) for row in rows]
            items = [TrainingItem(row, number, 0) for number, row in enumerate(rows)]
            yield (
                self._tensors(self.collate, items),
                self._tensors(self.as_text, items) if self.setting.teacher else None,
            )

    def _tensors(self, collate: Collator, items: list[TrainingItem]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in collate(items).items() if name not in ("rows", "shortened")}

    def _plain(self, row: Row) -> Row:
        """A window to restate, or its first half to continue."""
        words = row.documents[0].split(" ")
        half = len(words) // 2 if self.setting.warm_up == "continue" else 0
        shown = " ".join(words[:half]) if half else row.documents[0]
        return replace(row, documents=(shown,), questions=(), answers=(" ".join(words[half:]),), kind="paraphrase")


def start(folder: Path, setting: Setting) -> ClaraModel:
    """The model before its first step."""
    config = TrainConfig.for_stage(
        "pretrain", pretrain=BASE, dataset=str(folder / "data" / "long.jsonl"), prompts=str(PROMPTS),
        compress_rate=RATE, doc_max_length=LENGTH, residual="anchors",
        lora_rank=setting.rank, lora_dropout=0.0, mse_loss=False, seed=SEED,
    )  # fmt: skip
    model = starting_model(config, "cpu")
    if setting.read_first:
        model.roles.load("generator", reader(folder).state().adapters["generator"], "the text reader")
    return model


def reader(folder: Path) -> ClaraModel:
    """The text reader."""
    return ClaraModel.from_pretrained(folder / "reader", dtype=torch.float32, device="cpu")


def taught(folder: Path, setting: Setting, rows: Sequence[Row], steps: int) -> tuple[Reading, int]:
    """A trained model, and the positions that its prompts had."""
    teacher = TrainingModel(reader(folder), Objective(stage="read_text")) if setting.teacher else None
    model = Reading(start(folder, setting), setting, teacher).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - RISING, eta_min=PEAK / 10)
    rising = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / RISING, total_iters=RISING)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rising, falling], [RISING])
    positions = 0
    for step, (batch, texts) in enumerate(Texts(model.model, setting, rows, steps)):
        loss = model.losses(batch, texts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        positions += int(batch["prompt_mask"].sum())
        print(f"step {step + 1} loss {loss.item():.3f} positions {positions}", flush=True)
    return model.eval(), positions


def measured(model: Reading, held: Sequence[Row]) -> dict[str, float]:
    """The held-out loss of a label, and scores of answers."""
    golds = [replace(row, documents=(row.documents[row.positives[0]],), positives=(0,)) for row in held]
    collate, total, labels = Collator(model.model.tokens, "pretrain", joined_pairs=False), 0.0, 0
    with torch.no_grad():
        for first in range(0, min(LOSSES, len(golds)), 10):
            items = [TrainingItem(row, 0, 0) for row in golds[first : first + 10]]
            batch = {name: tensor for name, tensor in collate(items).items() if name not in ("rows", "shortened")}
            count = int((batch["labels"][:, 1:] != -100).sum())
            total, labels = total + model.losses(batch, None).item() * count, labels + count
    answers = read_latents(model.model, golds[:ANSWERED], "gold").metrics
    return {"loss": total / labels, "f1": answers["f1"], "em": answers["em"]}


def run(folder: Path, name: str, steps: int) -> dict[str, Any]:
    """Teach in one way and measure."""
    rows = list(read_rows([str(folder / "data" / "long.jsonl")]))
    random.Random(SEED).shuffle(rows)
    model, positions = taught(folder, SETTINGS[name], rows, steps)
    held = drawn(folder / "data" / "heldout.jsonl", max(LOSSES, ANSWERED), SEED)
    return {"setting": name, "steps": steps, "positions": positions, **measured(model, held)}


def table(found: Sequence[dict[str, Any]]) -> Table:
    """What was measured, in the order of `SETTINGS`."""
    made = Table("setting", "positions", "loss", "F1", "EM")
    for one in found:
        figures = [f"{one[key]:.3f}" for key in ("loss", "f1", "em")]
        made.add_row(one["setting"], f"{one['positions']:,}", *figures)
    return made


def main() -> None:
    """Teach in every way that was not tried yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    args = parser.parse_args()
    kept = args.folder / "channel"
    kept.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        path = kept / f"{name.replace(' ', '-')}-{args.steps}.json"
        if not path.is_file():
            path.write_text(json.dumps(run(args.folder, name, args.steps), indent=1) + "\n")
    files = [kept / f"{name.replace(' ', '-')}-{args.steps}.json" for name in SETTINGS]
    Console(width=120).print(table([json.loads(file.read_text()) for file in files if file.is_file()]))


if __name__ == "__main__":
    main()

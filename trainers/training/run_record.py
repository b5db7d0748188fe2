"""The record of a run, ``run.json`` beside its checkpoints: settings, versions, fingerprints of its data and its start.

A resumed run is compared with it. What may change: paths (what lies there is compared instead), how a step is split,
hardware, checkpointing, logging and evaluation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

from clara_model.checkpoint import files
from clara_model.errors import ClaraError
from clara_model.inference.published import ClaraModel
from trainers.data.row import Row
from trainers.data.rows import fingerprint_of_rows
from trainers.evaluation import measuring
from trainers.training.train_config import PASSED, SETTINGS, TrainConfig

logger = logging.getLogger(__name__)

NAME = "run.json"
FORMAT = 1
PACKAGES = ("clara-integrations", "torch", "transformers", "accelerate", "deepspeed", "tokenizers")
FREE_GROUPS = ("precision and devices", "checkpointing", "logging and evaluation")
FREE = frozenset(
    "pretrain pretrain_checkpoint prompts save_path dataset dataset_split eval_dataset eval_split dataloader_workers "
    "micro_train_batch_size".split()
)
"""Settings that may change because they change no result, or because what they name is compared instead."""
BOUND = frozenset({"bf16", "base_dtype", "quantization", "optim", "optim_args", "adam_epsilon", "full_determinism"})
"""Settings of free groups and of `transformers` that change the result."""


@dataclass
class RunRecord:
    """What `NAME` holds."""

    settings: dict[str, Any]
    """`TrainConfig.to_dict` of the first start."""
    data: list[str]
    """A fingerprint of each training set."""
    start: dict[str, str]
    """Fingerprints of the base model, the checkpoint started from and the prompts."""
    versions: dict[str, str]
    rates: list[dict[str, float]]
    """``step`` and ``learning_rate`` of every change by ``new_learning_rate``, the first one at step 0."""

    @classmethod
    def of(cls, config: TrainConfig, parts: Sequence[Sequence[Row]], model: ClaraModel) -> Self:
        """The record of a run that is about to start."""
        settings = config.to_dict() | {"use_wandb": "given" if config.use_wandb else ""}  # it may be a key
        data, rate = [fingerprint_of_rows(part) for part in parts], {"step": 0, "learning_rate": config.learning_rate}
        return cls(settings, data, _start(config, model), versions(), [rate])

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in a folder; ``None`` where there is none. Raises `ClaraError`: it is damaged."""
        path = folder / NAME
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ClaraError(f"{path} is damaged ({error}); the run cannot be resumed from {folder}") from error

    def write(self, folder: Path) -> None:
        """Write it whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{NAME}"
        values = {"format": FORMAT, **{field.name: getattr(self, field.name) for field in fields(self)}}
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, folder / NAME)

    def go_on(self, step: int, asked: float) -> float:
        """What a checkpoint's rates are multiplied by in a run that goes on from its step.

        ``asked`` is the rate asked for by name, 0 for the one that the run had from there on.
        """
        written = [one for one in self.rates if one["step"] < max(1, step)]
        known = [one for one in self.rates if one["step"] <= step]
        rate = asked or known[-1]["learning_rate"]
        self.rates = known if rate == known[-1]["learning_rate"] else [*written, {"step": step, "learning_rate": rate}]
        return rate / written[-1]["learning_rate"]

    def check(self, now: RunRecord, folder: Path) -> None:
        """Refuse to go on as another run: a `ClaraError` with the old and the new value of each difference."""
        found = _differences(self.settings, now.settings)
        if sorted(self.data) != sorted(now.data):
            then, here = ", ".join(self.data), ", ".join(now.data)
            found.append(f"the training data is other than it was ({then} then, {here} now)")
        elif self.data != now.data:
            found.append("the training sets come in another order")
        found += [
            f"the {what} is another one ({old} then, {now.start.get(what, 'none')} now)"
            for what, old in self.start.items()
            if now.start.get(what) != old
        ]
        if found:
            raise ClaraError(
                f"{folder} holds another run: {'; '.join(found)}. Give the old values to go on with it, or another "
                "save_path to start anew"
            )
        for name, old in self.versions.items():
            if now.versions.get(name) != old:
                logger.warning("%s was %s when the run began, now %s", name, old, now.versions.get(name, "missing"))


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found = []
    for name in sorted(bound_settings()):
        if name in old and name in new and old[name] != new[name]:
            hint = "; pass --new_learning_rate to go on with another" if name == "learning_rate" else ""
            found.append(f"{name} was {old[name]!r}, now {new[name]!r}{hint}")
        elif (name in old) != (name in new) and name in PASSED:
            found.append(f"{name} was {old.get(name, 'not given')!r}, now {new.get(name, 'not given')!r}")
    sized = [name for name, setting in SETTINGS.items() if setting.metadata.get("fresh")]
    return [one for one in found if not (old.get("pretrain_checkpoint") and one.split()[0] in sized)]


def bound_settings() -> set[str]:
    """Names of the settings that a resumed run must have as they were."""
    free = {name for name, setting in SETTINGS.items() if setting.metadata["group"] in FREE_GROUPS}
    return (set(SETTINGS) - free - FREE - {"new_learning_rate"}) | BOUND


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result may hang on."""
    return {"python": platform.python_version(), **measuring.versions(PACKAGES)}


def _start(config: TrainConfig, model: ClaraModel) -> dict[str, str]:
    """Fingerprints that do not depend on paths, dtype or device."""
    embedding = cast(Tensor, model.base.get_input_embeddings().weight)
    norms = [weight for name, weight in model.base.named_parameters() if name.endswith("norm.weight")]
    digest = hashlib.sha256()
    for weight in [embedding[:64], *norms]:
        digest.update(weight.detach().to(torch.bfloat16).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    found = {"base model": digest.hexdigest()[:16]}
    prompts = json.dumps(model.config.to_dict().get("prompts"), sort_keys=True)
    found["prompts"] = hashlib.sha256(prompts.encode()).hexdigest()[:16]
    if config.pretrain_checkpoint:
        folder = files.locate(config.pretrain_checkpoint)
        digest = hashlib.sha256()
        for path in sorted(folder.glob("adapters.*")) + sorted(folder.glob("decoder_first_last_layers.pth")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        found["starting checkpoint"] = digest.hexdigest()[:16]
    return found

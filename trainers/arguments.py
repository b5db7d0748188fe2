"""Every setting of a training run, under the published names: one dataclass that makes the command line and reads YAML.

Defaults that depend on the stage are in `STAGE_DEFAULTS`. Sources: the published scripts (ml-clara commit 857c3cf) and
paper section 4; where the two differ, the field says so.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import yaml

from clara_model.errors import ClaraError
from trainers.contradictions import SCHEDULERS, STAGES, check

if TYPE_CHECKING:
    from clara_model.modeling.objectives import Stage

PUBLISHED_STAGES = {"stage1": "pretrain", "stage1_2": "instruct", "stage2": "end_to_end"}
ALIASES = {"base_model": "pretrain", "resume": "load_checkpoint"}
"""Other names of a field."""

STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "learning_rate": 1e-4,
        "max_len": 2048,
        "train_batch_size": 128,
        "generation_top_k": 1,
        "mse_loss": True,
        "lr_scheduler": "cosine",
    },
    "instruct": {
        "learning_rate": 1e-4,
        "max_len": 2048,
        "train_batch_size": 128,
        "generation_top_k": 5,
        "mse_loss": True,
        "lr_scheduler": "cosine",
    },
    "end_to_end": {
        "learning_rate": 5e-6,
        "max_len": 1024,
        "train_batch_size": 32,
        "generation_top_k": 5,
        "mse_loss": False,
        "lr_scheduler": "constant",
    },
}


def _group(name: str, text: str, default: Any = None, **more: Any) -> Any:
    """A field with its place and text in ``--help``; ``default`` None means that the stage decides."""
    metadata = {"group": name, "help": text, **more}
    return field(default=default, metadata=metadata) if default is not None else field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. `for_stage` fills in what the stage decides; every value is checked."""

    stage: str = _group("what", "pretrain (stage1), instruct (stage1_2) or end_to_end (stage2)", "pretrain")
    pretrain: str = _group("what", "base model, folder or hub name; needed where no pretrain_checkpoint is given", "")
    pretrain_checkpoint: str = _group("what", "CLaRa checkpoint to start from; needed by instruct and end_to_end", "")
    save_path: str = _group(
        "what", "folder of the trained checkpoint, and of checkpoint-STEP folders on the way", "./ckpt"
    )
    keep_generator: bool = _group("what", "instruct: go on with the checkpoint's generator, not a fresh one", False)
    pretrain_retrieval: bool = _group(
        "what", "end_to_end: train only the query reasoner, contrastively, on rows with pos_index", False
    )

    compress_rate: int = _group("sizes", "document tokens per memory token, 1 to 256", 32, fresh=True)
    doc_max_length: int = _group("sizes", "document tokens that are read", 256, fresh=True)
    lora_rank: int = _group("sizes", "rank of every adapter", 16, fresh=True)
    lora_alpha: int = _group("sizes", "adapters are scaled by lora_alpha / lora_rank; 0: twice the rank", 0, fresh=True)
    lora_dropout: float = _group("sizes", "dropout on the adapters' input", 0.1)
    prompts: str = _group("sizes", "prompts file (JSON), instead of this project's wording or the checkpoint's", "")
    generation_top_k: int = _group("sizes", "documents the generator reads, and the checkpoint's top_k")

    dataset: tuple[str, ...] = _group("data", "training files (.jsonl, .jsonl.gz) or folders", ())
    dataset_probs: tuple[float, ...] = _group(
        "data", "weights to mix the data sets by; none: each row once per epoch", ()
    )
    eval_dataset: tuple[str, ...] = _group("data", "evaluation files or folders", ())
    max_samples: int = _group("data", "rows used at most", 1_000_000)
    max_len: int = _group("data", "tokens of prompt and answer; longer answers are cut")
    qa_loss: bool = _group(
        "data", "pretrain: learn all pairs of a row after one prompt; False: each answer after its question", True
    )
    stage2_retrieval_top_n: int = _group(
        "data",
        "end_to_end: candidates per question, gold ones kept; 0: all (published: 1, unused without its index)",
        0,
    )
    shuffle: bool = _group("data", "shuffle rows anew in every epoch", True)
    shuffle_group: int = _group("data", "consecutive rows that stay together, e.g. those that share candidates", 1)
    dataloader_workers: int = _group("data", "processes that tokenise ahead", 0)

    mse_loss: bool = _group("loss", "add the alignment loss (pretrain, instruct)")
    mse_weight: float = _group("loss", "its weight", 0.1)
    temperature: float = _group("loss", "of the soft choice and of the contrastive softmax (end_to_end)", 0.02)

    train_batch_size: int = _group("optimisation", "rows per step, over all processes")
    micro_train_batch_size: int = _group(
        "optimisation", "rows per forward pass of one process; 0: as many as fit a step", 8
    )
    learning_rate: float = _group("optimisation", "peak learning rate")
    lr_scheduler: str = _group("optimisation", ", ".join(SCHEDULERS))
    lr_warmup_ratio: float = _group("optimisation", "share of the steps with a rising rate", 0.03)
    max_epochs: int = _group("optimisation", "passes over the data (paper: 1)", 1)
    max_steps: int = _group("optimisation", "stop after so many steps; 0: at the end of the data", 0)
    l2: float = _group("optimisation", "weight decay", 0.0)
    adam_betas: tuple[float, ...] = _group("optimisation", "AdamW's betas", (0.9, 0.95), nargs=2)
    max_norm: float = _group("optimisation", "gradients are clipped to this norm; 0: not", 1.0)
    seed: int = _group("optimisation", "of weights, order, wordings and dropout", 42)

    zero_stage: int = _group("machine", "DeepSpeed ZeRO stage where several processes run", 2)
    bf16: bool = _group("machine", "compute in bfloat16", False)
    flash_attn: bool = _group("machine", "FlashAttention 2", False)
    gradient_checkpointing: bool = _group("machine", "recompute activations in the backward pass", False)
    use_cpu: bool = _group("machine", "train on the processor even where a GPU is", False)

    save_steps: int = _group("checkpoints", "steps between checkpoints; -1: only at the end, -2: after every epoch", -1)
    max_ckpt_num: int = _group("checkpoints", "checkpoints kept on the way", 3)
    ckpt_path: str = _group("checkpoints", "folder they are kept in; save_path where not given", "")
    load_checkpoint: bool = _group("checkpoints", "go on from the newest whole one", False)

    logging_steps: int = _group("watching", "steps between log lines", 1)
    eval_steps: int = _group("watching", "steps between evaluations; -1: after every epoch", -1)
    do_eval_gen: bool = _group("watching", "evaluate by generating: EM, F1, cover-EM", False)
    use_tensorboard: str = _group("watching", "folder for tensorboard", "")
    use_wandb: str = _group("watching", "Weights & Biases: an API key, or True to use the login that is there", "")
    wandb_project: str = _group("watching", "its project", "CLaRa")
    wandb_run_name: str = _group("watching", "its name of the run", "")
    given: frozenset[str] = field(default=frozenset(), repr=False)
    """Names that were set by the caller and not by default."""

    @classmethod
    def for_stage(cls, stage: str, **values: Any) -> Self:
        """A run of one stage; what is not given has the stage's default.

        Raises:
            ClaraError: an unknown name, a value out of range, or settings that contradict each other.
        """
        values = {ALIASES.get(name, name): value for name, value in values.items()}
        stage, values = _published(stage, values)
        if stage not in STAGES:
            known = ", ".join([*STAGES, *PUBLISHED_STAGES])
            raise ClaraError(f"stage must be one of {known}, got {stage!r}")
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ClaraError(f"unknown setting {unknown[0]!r}; clara-train --help lists them all")
        values = {name: _coerced(name, value) for name, value in values.items()}
        return cls(**{**STAGE_DEFAULTS[stage], **values, "stage": stage, "given": frozenset(values)})

    def __post_init__(self) -> None:
        """Check values and their combinations."""
        check(self)

    @property
    def objective_stage(self) -> Stage:
        """The stage's name in `modeling.objectives`."""
        return "pretrain_retrieval" if self.pretrain_retrieval else cast("Stage", self.stage)

    @property
    def checkpoints_path(self) -> Path:
        """Folder of the checkpoints on the way."""
        return Path(self.ckpt_path or self.save_path)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a YAML file holds them."""
        values = {name: value for name, value in asdict(self).items() if name != "given"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _published(stage: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The published stage names in this project's words."""
    if stage == "stage2_pretrain_retrieval":
        return "end_to_end", {"pretrain_retrieval": True, **values}
    return PUBLISHED_STAGES.get(stage, stage), values


def _coerced(name: str, value: Any) -> Any:
    """Commas and single values for the fields that are lists, as the published flags have them; paths as strings."""
    kind = next(str(f.type) for f in fields(TrainConfig) if f.name == name)
    if kind.startswith("tuple"):
        given: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
        parts = [
            piece for part in given for piece in (part.split(",") if isinstance(part, str) else [part]) if piece != ""
        ]
        return tuple(float(part) if kind == "tuple[float, ...]" else str(part) for part in parts)
    if kind == "float" and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):  # YAML reads 1e-4 as a string
            return float(value)
    value = str(value) if isinstance(value, Path) else value
    if type(value).__name__ != kind:
        raise ClaraError(f"{name} must be of type {kind}, got {value!r}")
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Settings from a YAML file; names as on the command line, without dashes.

    Raises:
        ClaraError: the file is missing or no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ClaraError(f"configuration file {path} does not exist")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClaraError(f"{path} is no valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise ClaraError(f"{path} must hold a mapping of settings, got {type(values).__name__}")
    return values

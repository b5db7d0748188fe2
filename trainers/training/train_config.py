"""`TrainConfig`: the settings of one run. What a setting means, needs and does stands with its field, once.

Metadata of a field: its ``group`` and ``help`` text, other names (``also``), defaults ``by_stage``, the values it takes
(``must``; numbers of at least 0 where nothing is said), the stages it means something in (``only``) and when it does
nothing (``idle``). Not a subclass of `transformers.TrainingArguments`, whose ``train_batch_size`` means the rows of one
process and which starts the process group; what it offers beyond the published settings is kept in `trainer`.
Sources: the published scripts and parser (ml-clara commit 857c3cf), paper section 4; help says where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import yaml

from clara_model.checkpoint.config import PUBLISHED_STAGES, RANKINGS, RESIDUALS
from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.modeling.objectives import Stage

STAGES = tuple(PUBLISHED_STAGES.values())
LEAST_ROOM = 64
"""Prompt tokens beside the slots without which a training example has no place for its question and answer."""
MEANINGLESS = {
    "ds_tensor_parallel_size": "weights are split by ZeRO (--zero_stage), not by tensor parallelism",
    "use_ms": "models come from a folder or the Hugging Face hub",
    "pure_inference": "it is decided by what is called: clara-train trains, clara answers",
    "max_ckpt_mem": "checkpoints are bounded by number (--max_ckpt_num)",
    "pretrain_mode": "the stage decides the loss",
    "disable_fast_tokenizer": "only fast tokenizers are used",
    "stage2_mips": "each row brings its candidates; for rows that have none, take them from a store before the run: "
    "clara-data retrieve FILE --store FOLDER --model CHECKPOINT --out NEW_FILE",
}
"""Published flags that are read and named, and change nothing; with the reason."""
PASSED = (
    "optim optim_args adam_epsilon torch_compile torch_compile_backend torch_compile_mode tf32 full_determinism "
    "torch_empty_cache_steps report_to logging_first_step skip_memory_metrics ddp_timeout dataloader_pin_memory "
    "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context eval_delay "
    "per_device_eval_batch_size eval_on_start"
).split()
"""Settings of `transformers.TrainingArguments` that work here as everywhere, under their own names."""

Must = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether one is."""


def _one_of(*values: Any) -> Must:
    words = [str(value) for value in values if value != ""]
    left_out = ", or left out" if "" in values else ""
    return f"{', '.join(words[:-1])} or {words[-1]}{left_out}", lambda value: value in values


POSITIVE: Must = ("more than 0", lambda value: value > 0)
NOT_NEGATIVE: Must = ("at least 0", lambda value: value >= 0)
SHARE: Must = ("a share, 0 to 1", lambda value: 0 <= value <= 1)
BELOW_1: Must = ("in [0, 1)", lambda value: 0 <= value < 1)
BETAS: Must = ("two numbers in [0, 1)", lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value))
SAVE_STEPS: Must = ("at least 1, or -2 or -1 as --help says", lambda value: value >= -2 and value != 0)
EVAL_STEPS: Must = ("at least 1, or -1 as --help says", lambda value: value >= -1 and value != 0)


def _in_group(
    group: str, text: str, default: Any = MISSING, *, by_stage: tuple[Any, ...] = (), also: str = "", **more: Any
) -> Any:
    """A field; ``also`` are its other names, this project's own and those of `transformers.TrainingArguments`."""
    shown = f"{', '.join(more['only'])}: {text}" if "only" in more else text
    metadata = {"group": group, "help": shown, "by_stage": by_stage, "also": tuple(also.split()), **more}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


_model = partial(_in_group, "model")
_size = partial(_in_group, "compression and LoRA")
_data = partial(_in_group, "data")
_loss = partial(_in_group, "loss")
_step = partial(_in_group, "optimization")
_device = partial(_in_group, "precision and devices")
_keep = partial(_in_group, "checkpointing")
_log = partial(_in_group, "logging and evaluation")
_FIRST, _SECOND, _LAST = ("pretrain",), ("instruct",), ("end_to_end",)
_EARLY, _LATER = _FIRST + _SECOND, _SECOND + _LAST
_NO_SET = ("without an evaluation set (--eval_dataset FILE)", lambda run: not run.eval_dataset)
_NO_METRIC = ("without best_metric", lambda run: not run.best_metric)
_NO_WANDB = ("without use_wandb", lambda run: not run.use_wandb)
_NO_RANKING_LOSS = ("without ranking_loss", lambda run: not run.ranking_loss)
_IN_ORDER = ("with --shuffle False", lambda run: not run.shuffle)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. `for_stage` fills in what the stage decides; every value is checked."""

    stage: str = _model(
        "pretrain (stage1), instruct (stage1_2), end_to_end (stage2)", "pretrain", must=_one_of(*STAGES)
    )
    pretrain: str = _model("base model, a folder or hub name; needed without a checkpoint", "", also="base_model")
    pretrain_checkpoint: str = _model("CLaRa checkpoint to start from; needed by instruct and end_to_end", "")
    save_path: str = _model("folder of the trained checkpoint, and of checkpoint-STEP folders on the way", "./ckpt")
    keep_generator: bool = _model("go on with the checkpoint's generator, not a fresh one", False, only=_SECOND)
    freeze_compressor: bool = _model(
        "train the generator alone: latents, stores made of them and the ranking stay as they are", False, only=_SECOND
    )
    pretrain_retrieval: bool = _model(
        "train only the query reasoner, contrastively, on rows with pos_index", False, only=_LAST
    )
    read_text: bool = _model("train the generator alone, on the documents as text in its prompt", False, only=_FIRST)

    compress_rate: int = _size("document tokens per memory token, 1 to 256", 32, must=POSITIVE, fresh=True)
    doc_max_length: int = _size("document tokens that are read", 256, must=POSITIVE, fresh=True)
    lora_rank: int = _size("rank of every adapter", 16, must=POSITIVE, fresh=True)
    lora_alpha: int = _size("adapters are scaled by lora_alpha / lora_rank; 0: twice the rank", 0, fresh=True)
    lora_targets: tuple[str, ...] = _size(
        "linear layers with adapters, by the last part of their names; none: all of a decoder layer", (), fresh=True
    )
    lora_dropout: float = _size("dropout on the adapters' input", 0.1, must=BELOW_1)
    residual: str = _size(
        "what latents begin as: none or anchors (docs/training.md)", "none", must=_one_of(*RESIDUALS), fresh=True
    )
    residual_gate: bool = _size(
        "states at the memory tokens may enter latents that begin as a residual; False: they do not enter (no pass of "
        "the base model over documents or questions, in training or after), the residual trains alone",
        True,
        idle=("with read_text", lambda run: run.read_text),
    )
    ranking: str = _size(
        "score of a document: cosine or, with anchors, late (docs/training.md)",
        "cosine",
        must=_one_of(*RANKINGS),
        fresh=True,
    )
    prompts: str = _size("prompts file (JSON), instead of this project's wording or the checkpoint's", "")
    generation_top_k: int = _size(
        "documents the generator reads, and the checkpoint's top_k", by_stage=(1, 5, 5), must=POSITIVE
    )

    dataset: tuple[str, ...] = _data("training files (.jsonl, .jsonl.gz) or folders", ())
    dataset_probs: tuple[float, ...] = _data("weights to mix the data sets by; none: each row once per epoch", ())
    dataset_split: str = _data("split of data sets on the hub whose name has none behind a colon", "train")
    eval_dataset: tuple[str, ...] = _data("evaluation files or folders", ())
    eval_split: str = _data("split of evaluation sets on the hub", "train")
    max_samples: int = _data("most rows to use, of each file in proportion", 1_000_000, must=POSITIVE)
    bad_rows: str = _data(
        "error: refuse data with rows that the stage cannot learn from; skip: leave them out, counted in the log and "
        "listed in bad_rows.txt",
        "error",
        must=_one_of("error", "skip"),
    )
    max_len: int = _data(
        "tokens of prompt and answer; longer answers are cut, questions that leave them no room shortened",
        by_stage=(2048, 2048, 1024),
        must=POSITIVE,
    )
    qa_loss: bool = _data(
        "learn all pairs of a row after one prompt; False: each answer after its question", True, only=_FIRST
    )
    stage2_retrieval_top_n: int = _data(
        "candidates per question, gold ones kept; 0: all (published: 1, unused without its index)", 0, only=_LAST
    )
    shuffle: bool = _data("shuffle rows anew in every epoch", True)
    shuffle_group: int = _data(
        "consecutive rows kept together when shuffled, as those that share candidates", 1, must=POSITIVE, idle=_IN_ORDER
    )
    shuffle_documents: float = _data(
        "share of rows whose documents the generator reads in random order", 0.0, must=SHARE, only=_LATER
    )
    expand_share: float = _data(
        "share of rows that the generator learns to read as it does with --expand: the first document as text, in one "
        "of four such rows all of them, the others as latents",
        0.0,
        must=SHARE,
        only=_SECOND,
    )
    group_by_length: bool = _data(
        "steps of rows of like length; else only the rows of each step are arranged by length", False, idle=_IN_ORDER
    )
    dataloader_workers: int = _data("worker processes that tokenize ahead", 0, also="dataloader_num_workers")

    mse_loss: bool = _loss(
        "add the alignment loss",
        by_stage=(True, True, False),
        only=_EARLY,
        idle=("with freeze_compressor", lambda run: run.freeze_compressor),
    )
    mse_weight: float = _loss(
        "weight of the alignment loss", 0.1, only=_EARLY, idle=("without mse_loss", lambda run: not run.mse_loss)
    )
    temperature: float = _loss(
        "temperature of the soft choice of documents and of the contrastive loss", 0.02, must=POSITIVE, only=_LAST
    )
    temperature_start: float = _loss(
        "temperature of the first step, which falls to --temperature by the last; 0: constant", 0.0, only=_LAST
    )
    ranking_loss: str = _loss(
        "teach the ranking directly too, from gold labels (labels) or from the generator's likelihood of "
        "the answer given each candidate (likelihood)",
        "",
        must=_one_of("", "labels", "likelihood"),
        only=_LAST,
        idle=("without ranking_warmup or ranking_weight", lambda run: not (run.ranking_warmup or run.ranking_weight)),
    )
    ranking_warmup: int = _loss(
        "steps at the start in which ranking_loss is the only loss", 0, only=_LAST, idle=_NO_RANKING_LOSS
    )
    ranking_weight: float = _loss("weight of ranking_loss after its warm-up", 0.0, only=_LAST, idle=_NO_RANKING_LOSS)

    train_batch_size: int = _step("rows per step, over all processes", by_stage=(128, 128, 32), must=POSITIVE)
    micro_train_batch_size: int = _step(
        "rows per forward pass of one process; 0: as many as fit a step", 8, also="per_device_train_batch_size"
    )
    learning_rate: float = _step("peak learning rate", by_stage=(1e-4, 1e-4, 5e-6), must=POSITIVE)
    query_learning_rate: float = _step("peak learning rate of the query reasoner; 0: learning_rate", 0.0, only=_LAST)
    new_learning_rate: float = _step(
        "a resumed run goes on at this rate, its schedule in the same shape; 0: as it was",
        0.0,
        idle=("without load_checkpoint", lambda run: not run.load_checkpoint),
    )
    lr_scheduler: str = _step(
        "cosine, cosine_with_min_lr, linear, constant; cosine_with_min_lr ends at a tenth of the rate (paper: cosine "
        "to 0; in stage 3 the published script's constant)",
        by_stage=("cosine_with_min_lr", "cosine_with_min_lr", "constant"),
        must=_one_of("cosine", "cosine_with_min_lr", "linear", "constant"),
        also="lr_scheduler_type",
    )
    lr_warmup_ratio: float = _step(
        "share of the steps with a rising rate (constant too, unlike published)",
        0.03,
        must=BELOW_1,
        also="warmup_ratio",
    )
    max_epochs: int = _step(
        "passes over the data (published parser's default: 2)", 1, must=POSITIVE, also="num_train_epochs"
    )
    max_steps: int = _step("stop after this many steps; 0: at the end of the data", 0)
    l2: float = _step("weight decay", 0.0, also="weight_decay")
    adam_betas: tuple[float, ...] = _step("AdamW's betas", (0.9, 0.95), must=BETAS, nargs=2)
    max_norm: float = _step("gradients are clipped to this norm; 0: no clipping", 1.0, also="max_grad_norm")
    seed: int = _step("random seed of weights, order, wordings and dropout", 42)

    zero_stage: int = _device("DeepSpeed ZeRO stage of a run with several processes", 2, must=_one_of(0, 1, 2, 3))
    zero_offload: str = _device(
        "several processes: keep in the machine's memory, not the GPU's, the optimizer's state and step (optimizer, "
        "ZeRO 1 to 3), or weights too, the frozen base's among them (weights, ZeRO 3)",
        "",
        must=_one_of("", "optimizer", "weights"),
    )
    bf16: bool = _device("compute in bfloat16", False)
    base_dtype: str = _device(
        "float type of the frozen base: float32, or with bf16 bfloat16 or float16; none: bfloat16 with bf16",
        "",
        must=_one_of("", "float32", "bfloat16", "float16"),
    )
    quantization: str = _device(
        "keep the frozen base in int8 or int4 (extra quantization; needs bf16)", "", must=_one_of("", "int8", "int4")
    )
    flash_attn: bool = _device("use FlashAttention 2", False, idle=("without a GPU", lambda run: run.use_cpu))
    latent_cache: int = _device(
        "MiB for latents of documents met before (the compressor is frozen); 0: made in every pass", 1024, only=_LAST
    )
    latent_store: str = _device(
        "folder of a store that keeps them on disk too, for sets larger than memory and later runs", "", only=_LAST
    )
    gradient_checkpointing: bool = _device(
        "recompute activations in backward passes", False, also="activation_checkpointing"
    )
    use_cpu: bool = _device("train on the CPU even where there is a GPU", False)

    save_steps: int = _keep(
        "steps between checkpoints; -1: as save_minutes says, -2: after every epoch",
        -1,
        must=SAVE_STEPS,
        idle=("with disable_ds_ckpt and without save_hf_ckpt", lambda run: run.no_checkpoints),
    )
    save_minutes: float = _keep(
        "minutes between checkpoints; 0: only the end", 30.0, idle=("with save_steps", lambda run: run.save_steps != -1)
    )
    max_ckpt_num: int = _keep("most checkpoints to keep during training", 3, must=POSITIVE, also="save_total_limit")
    ckpt_path: str = _keep("folder of the checkpoints (default: save_path)", "")
    load_checkpoint: bool = _keep("resume from the newest complete checkpoint", False, also="resume")
    disable_ds_ckpt: bool = _keep("write nothing to resume from: with save_hf_ckpt weights only, else nothing", False)
    save_hf_ckpt: bool = _keep("keep loadable weights in checkpoints (always so but with disable_ds_ckpt)", False)

    logging_steps: int = _log("steps between log lines", 1, must=POSITIVE)
    eval_steps: int = _log("steps between evaluations; -1: after every epoch", -1, must=EVAL_STEPS, idle=_NO_SET)
    do_eval_gen: bool = _log("evaluate by generating: EM, F1, cover-EM", False, idle=_NO_SET)
    best_metric: str = _log(
        "figure of the evaluation (lm_loss, em, f1, cover_em, recall@1 ..) whose best weights become the trained "
        "checkpoint; none: the last ones",
        "",
        idle=_NO_SET,
    )
    early_stopping: int = _log(
        "end after so many evaluations without a better best_metric; 0: never", 0, idle=_NO_METRIC
    )
    push_to_hub: str = _log("hub repository (OWNER/NAME) that the trained checkpoint is sent to, private", "")
    use_tensorboard: str = _log("folder for tensorboard", "")
    use_wandb: str = _log("Weights & Biases: an API key, or True to use the login that is there", "")
    wandb_project: str = _log("Weights & Biases project", "CLaRa", idle=_NO_WANDB)
    wandb_org: str = _log("Weights & Biases entity: a user or a team", "", idle=_NO_WANDB)
    wandb_group: str = _log("Weights & Biases group of runs", "", idle=_NO_WANDB)
    wandb_run_name: str = _log("name of the run", "", also="run_name")

    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of `transformers.TrainingArguments`, those of `PASSED`."""
    ignored: tuple[str, ...] = field(default=(), compare=False)
    """Published flags that were given and mean nothing here."""
    given: frozenset[str] = field(default=frozenset(), repr=False)
    """Names that were set by the caller and not by default."""

    @classmethod
    def for_stage(cls, stage: str, **values: Any) -> Self:
        """A run of one stage with its defaults; a `ClaraError` names what is unknown, out of range or contradictory."""
        values = _one_name_each(values)
        if stage == "stage2_pretrain_retrieval":
            stage, values = "end_to_end", {"pretrain_retrieval": True, **values}
        stage = PUBLISHED_STAGES.get(stage, stage)
        if stage not in STAGES:
            unbuilt = stage == "stage2_reasoning"  # its methods are missing in the published code too
            reason = ": the multi-hop stage of the published scripts is not built" if unbuilt else ""
            raise ClaraError(f"stage must be one of {', '.join([*STAGES, *PUBLISHED_STAGES])}, got {stage!r}{reason}")
        ignored = tuple(name for name in values if name in MEANINGLESS)
        trainer = {name: value for name, value in values.items() if name in PASSED}
        if isinstance(trainer.get("report_to"), str):
            trainer["report_to"] = trainer["report_to"].split(",")
        values = {name: value for name, value in values.items() if name not in (*ignored, *trainer)}
        unknown = sorted(set(values) - set(SETTINGS))
        if unknown:
            raise ClaraError(f"unknown setting {unknown[0]!r}; clara-train --help lists them all")
        values = {name: _coerced(name, value) for name, value in values.items()}
        given = frozenset(values) | frozenset(trainer)
        filled = {**STAGE_DEFAULTS[stage], **values, "stage": stage}
        return cls(**filled, given=given, trainer=trainer, ignored=ignored)

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            words, holds = setting.metadata.get("must", NOT_NEGATIVE)
            if (isinstance(value, int | float) or "must" in setting.metadata) and not holds(value):
                raise ClaraError(f"{name} must be {words}, got {value!r}")
        if sentence := next(self._contradictions(), ""):
            raise ClaraError(sentence)
        if not self.pretrain_checkpoint and not self.pretrain_retrieval:  # a checkpoint's sizes are checked once read
            self.check_slots(self.doc_max_length // self.compress_rate)

    def _contradictions(self) -> Iterator[str]:
        """What of this run excludes each other, one sentence with the value and the fix each."""
        if self.compress_rate > min(256, self.doc_max_length):
            most = f"at most 256 and at most doc_max_length ({self.doc_max_length})"
            yield f"compress_rate must be {most}, got {self.compress_rate}"
        if self.zero_offload == "weights" and self.zero_stage != 3:
            yield f"zero_offload weights needs weights that are split; pass --zero_stage 3, not {self.zero_stage}"
        if self.zero_offload and self.zero_stage == 0:
            yield "zero_offload does not work with --zero_stage 0; pass 1, 2 or 3"
        for name, half in (("base_dtype", ("bfloat16", "float16")), ("quantization", ("int8", "int4"))):
            if getattr(self, name) in half and not self.bf16:
                yield f"{name} {getattr(self, name)} computes in 16 bits; pass --bf16 too"
        if self.flash_attn and not self.bf16:
            yield "flash_attn computes in 16 bits only; pass --bf16 too"
        if self.quantization and self.zero_stage == 3:
            yield f"zero_stage 3 cannot split a base in {self.quantization}; pass --zero_stage 2, or no quantization"
        if self.zero_stage == 3 and any(on for name, on in self.trainer.items() if name.startswith("torch_compile")):
            yield "torch_compile cannot follow weights that are gathered layer by layer; pass --zero_stage 2"
        if not self.dataset:
            yield "no training data was given; pass --dataset FILE"
        if self.stage == "pretrain" and not (self.pretrain or self.pretrain_checkpoint):
            yield "stage pretrain needs a base model; pass --pretrain FOLDER_OR_HUB_NAME"
        if self.stage != "pretrain" and not self.pretrain_checkpoint:
            before = {"instruct": "pretrain", "end_to_end": "pretrain or instruct"}[self.stage]
            yield f"stage {self.stage} starts from a {before} checkpoint; pass --pretrain_checkpoint FOLDER"
        weights, sets = self.dataset_probs, len(self.dataset)
        if weights and len(weights) != sets:
            yield f"dataset_probs must have one weight for each of the {sets} data sets, got {len(weights)}"
        if weights and (min(weights) < 0 or sum(weights) <= 0):
            yield f"dataset_probs must be at least 0 and not all 0, got {weights}"
        if self.shuffle_group > 1 and self.shuffle and self.dataset_probs:
            yield "shuffle_group cannot keep rows together in a mix; leave dataset_probs out"
        micro, rows = self.micro_train_batch_size, self.train_batch_size
        if micro > rows and "micro_train_batch_size" in self.given:
            yield f"micro_train_batch_size ({micro}) must be at most train_batch_size ({rows})"
        if self.read_text and self.qa_loss:
            yield "read_text learns each answer after its own question; pass --qa_loss false too"
        if not self.residual_gate and self.residual == "none" and not self.pretrain_checkpoint:
            yield "without residual_gate latents are the residual alone; pass --residual anchors too"
        if not self.residual_gate and self.mse_loss and not self.read_text:
            yield "mse_loss aligns states, which do not enter without residual_gate; pass --mse_loss false too"
        if self.stage == "end_to_end" and self.mse_loss:
            yield "mse_loss would train the compressor, which stage end_to_end keeps frozen; leave it out"

    def check_slots(self, memory_tokens: int) -> None:
        """Refuse a ``max_len`` that the slots alone fill, with a `ClaraError` that names the length needed."""
        documents = self.generation_top_k
        if self.max_len < (least := documents * (memory_tokens + 1) + LEAST_ROOM):
            raise ClaraError(
                f"max_len {self.max_len} cannot hold {documents} documents of {memory_tokens} memory tokens each; "
                f"pass --max_len {least} or more, or a higher compress_rate"
            )

    def idle(self) -> list[str]:
        """What was asked for and has no effect in this run, one sentence each."""
        found = [f"--{name} means nothing here ({MEANINGLESS[name]}); it is ignored" for name in self.ignored]
        given = [(name, setting, getattr(self, name)) for name, setting in SETTINGS.items() if name in self.given]
        for name, setting, asked in given:
            only = setting.metadata.get("only", STAGES)
            everywhere = (name, asked) == ("qa_loss", True)  # published scripts pass it in every stage
            if self.stage not in only and asked is not False and not everywhere:
                found.append(f"{name} does nothing in stage {self.stage}, only in {' and '.join(only)}")
        for name, setting, asked in given:
            reason, holds = setting.metadata.get("idle", ("", lambda run: False))
            if asked != (False if setting.default is MISSING else setting.default) and holds(self):
                found.append(f"{name} does nothing {reason}")
        return found

    @property
    def no_checkpoints(self) -> bool:
        """Whether nothing is written on the way."""
        return self.disable_ds_ckpt and not self.save_hf_ckpt

    @property
    def objective_stage(self) -> Stage:
        """The stage's name in `modeling.objectives`."""
        if self.read_text and self.stage == "pretrain":
            return "read_text"
        return "pretrain_retrieval" if self.pretrain_retrieval else cast("Stage", self.stage)

    @property
    def checkpoints_path(self) -> Path:
        """Folder of the checkpoints on the way."""
        return Path(self.ckpt_path or self.save_path)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a YAML file holds them."""
        values = {name: value for name, value in asdict(self).items() if name in SETTINGS} | dict(self.trainer)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


SETTINGS = {setting.name: setting for setting in fields(TrainConfig) if "group" in setting.metadata}
"""All settings but those of `PASSED`, by name."""
ALIASES = {other: name for name, setting in SETTINGS.items() for other in setting.metadata["also"]}
STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    stage: {name: one.metadata["by_stage"][place] for name, one in SETTINGS.items() if one.metadata["by_stage"]}
    for place, stage in enumerate(STAGES)
}


def _one_name_each(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        own = ALIASES.get(name, name)
        if own in found and found[own] != value:
            raise ClaraError(f"{own} is given twice, as {found[own]!r} and as {value!r} ({name}); leave one out")
        found[own] = value
    return found


def _coerced(name: str, value: Any) -> Any:
    """Commas and single values for lists, as the published flags have them; paths as strings."""
    kind = str(SETTINGS[name].type)
    if kind.startswith("tuple"):
        return _listed(name, kind, value)
    if kind == "float" and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):  # YAML reads 1e-4 as a string
            return float(value)
    value = str(value) if isinstance(value, Path) else value
    if type(value).__name__ != kind:
        raise ClaraError(f"{name} must be of type {kind}, got {value!r}")
    return value


def _listed(name: str, kind: str, value: Any) -> tuple[Any, ...]:
    given: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    parts = [piece for part in given for piece in (part.split(",") if isinstance(part, str) else [part]) if piece != ""]
    if kind != "tuple[float, ...]":
        return tuple(str(part) for part in parts)
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise ClaraError(f"{name} must be numbers, separated by commas or blanks, got {value!r}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings from a YAML file; names as on the command line, without dashes. A `ClaraError` says what is wrong."""
    if not path.is_file():
        raise ClaraError(f"configuration file {path} does not exist")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClaraError(f"{path} is no valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise ClaraError(f"{path} must hold a mapping of settings, got {type(values).__name__}")
    return values

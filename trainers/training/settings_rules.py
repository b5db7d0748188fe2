"""Settings of a training run that are out of range or contradict each other are refused; idle ones are named."""

from __future__ import annotations

from clara_model.errors import ClaraError
from trainers.published import MEANINGLESS, SCHEDULERS, STAGES
from trainers.training.settings import Settings

POSITIVE = (
    "compress_rate doc_max_length lora_rank generation_top_k max_samples max_len shuffle_group train_batch_size "
    "max_epochs max_ckpt_num logging_steps learning_rate temperature"
).split()
NOT_NEGATIVE = (
    "lora_alpha micro_train_batch_size stage2_retrieval_top_n dataloader_workers mse_weight max_steps l2 max_norm seed "
    "new_learning_rate latent_cache "
    "temperature_start ranking_warmup ranking_weight query_learning_rate shuffle_documents save_minutes early_stopping"
).split()
RANKING = ("ranking_warmup", "ranking_weight")
ONLY_IN = {
    "keep_generator": ("instruct",),
    "read_text": ("pretrain",),
    "pretrain_retrieval": ("end_to_end",),
    "qa_loss": ("pretrain",),
    "stage2_retrieval_top_n": ("end_to_end",),
    "mse_loss": ("pretrain", "instruct"),
    "mse_weight": ("pretrain", "instruct"),
    "temperature": ("end_to_end",),
    "latent_cache": ("end_to_end",),
    "latent_store": ("end_to_end",),
    "temperature_start": ("end_to_end",),
    "ranking_loss": ("end_to_end",),
    "ranking_warmup": ("end_to_end",),
    "ranking_weight": ("end_to_end",),
    "query_learning_rate": ("end_to_end",),
    "shuffle_documents": ("instruct", "end_to_end"),
}
"""Settings of some stages only; in another one they do nothing."""
LEAST_ROOM = 64
"""Prompt tokens beside the slots without which a training example has no place for its question and answer."""


def check(config: Settings) -> None:
    """Refuse settings that are out of range or contradict each other.

    Raises:
        ClaraError: one sentence with the value and the fix.
    """
    _check_ranges(config)
    _check_start(config)
    _check_pairs(config)
    _check_room(config)


def _check_ranges(config: Settings) -> None:
    if config.stage not in STAGES:
        raise ClaraError(f"stage must be one of {', '.join(STAGES)}, got {config.stage!r}")
    for name in POSITIVE:
        if getattr(config, name) <= 0:
            raise ClaraError(f"{name} must be more than 0, got {getattr(config, name)}")
    for name in NOT_NEGATIVE:
        if getattr(config, name) < 0:
            raise ClaraError(f"{name} must be at least 0, got {getattr(config, name)}")
    if config.lr_scheduler not in SCHEDULERS:
        raise ClaraError(f"lr_scheduler must be one of {', '.join(SCHEDULERS)}, got {config.lr_scheduler!r}")
    if config.ranking_loss not in ("", "labels", "likelihood"):
        raise ClaraError(f"ranking_loss must be labels or likelihood, or left out, got {config.ranking_loss!r}")
    _check_base(config)
    if config.bad_rows not in ("error", "skip"):
        raise ClaraError(f"bad_rows must be error or skip, got {config.bad_rows!r}")
    if config.shuffle_documents > 1:
        raise ClaraError(f"shuffle_documents must be a share, 0 to 1, got {config.shuffle_documents}")
    if not 0 <= config.lr_warmup_ratio < 1:
        raise ClaraError(f"lr_warmup_ratio must be in [0, 1), got {config.lr_warmup_ratio}")
    if not 0 <= config.lora_dropout < 1:
        raise ClaraError(f"lora_dropout must be in [0, 1), got {config.lora_dropout}")
    if config.zero_stage not in (0, 1, 2, 3):
        raise ClaraError(f"zero_stage must be 0, 1, 2 or 3, got {config.zero_stage}")
    _check_offload(config)
    if len(config.adam_betas) != 2 or not all(0 <= beta < 1 for beta in config.adam_betas):
        raise ClaraError(f"adam_betas must be two numbers in [0, 1), got {config.adam_betas}")
    for name, least in (("save_steps", -2), ("eval_steps", -1)):
        if getattr(config, name) < least or getattr(config, name) == 0:
            raise ClaraError(
                f"{name} must be at least 1, or {least} up to -1 as --help says, got {getattr(config, name)}"
            )
    if config.compress_rate > min(256, config.doc_max_length):
        raise ClaraError(
            f"compress_rate must be at most 256 and at most doc_max_length ({config.doc_max_length}), "
            f"got {config.compress_rate}"
        )


def _check_offload(config: Settings) -> None:
    """What leaves the GPU's memory is what ZeRO splits."""
    if config.zero_offload not in ("", "optimizer", "weights"):
        raise ClaraError(f"zero_offload must be optimizer or weights, or left out, got {config.zero_offload!r}")
    if config.zero_offload == "weights" and config.zero_stage != 3:
        raise ClaraError(
            f"zero_offload weights needs weights that are split; pass --zero_stage 3, not {config.zero_stage}"
        )
    if config.zero_offload and config.zero_stage == 0:
        raise ClaraError("zero_offload does not work with --zero_stage 0; pass 1, 2 or 3")


def _check_base(config: Settings) -> None:
    """How the frozen base is kept."""
    if config.base_dtype not in ("", "float32", "bfloat16", "float16"):
        raise ClaraError(f"base_dtype must be float32, bfloat16 or float16, or left out, got {config.base_dtype!r}")
    if config.base_dtype in ("bfloat16", "float16") and not config.bf16:
        raise ClaraError(f"base_dtype {config.base_dtype} computes in 16 bits; pass --bf16 too")
    if config.quantization not in ("", "int8", "int4"):
        raise ClaraError(f"quantization must be int8 or int4, or left out, got {config.quantization!r}")
    if config.quantization and not config.bf16:
        raise ClaraError(f"quantization {config.quantization} computes in 16 bits; pass --bf16 too")
    if config.quantization and config.zero_stage == 3:
        raise ClaraError(
            f"zero_stage 3 cannot split a base in {config.quantization}; pass --zero_stage 2, or leave quantization out"
        )


def _check_start(config: Settings) -> None:
    if not config.dataset:
        raise ClaraError("no training data was given; pass --dataset FILE")
    if config.stage == "pretrain" and not (config.pretrain or config.pretrain_checkpoint):
        raise ClaraError("stage pretrain needs a base model; pass --pretrain FOLDER_OR_HUB_NAME")
    if config.stage != "pretrain" and not config.pretrain_checkpoint:
        before = {"instruct": "pretrain", "end_to_end": "pretrain or instruct"}[config.stage]
        raise ClaraError(f"stage {config.stage} starts from a {before} checkpoint; pass --pretrain_checkpoint FOLDER")
    if config.dataset_probs and len(config.dataset_probs) != len(config.dataset):
        raise ClaraError(
            f"dataset_probs must have one weight for each of the {len(config.dataset)} data sets, "
            f"got {len(config.dataset_probs)}"
        )
    if config.dataset_probs and (min(config.dataset_probs) < 0 or sum(config.dataset_probs) <= 0):
        raise ClaraError(f"dataset_probs must be at least 0 and not all 0, got {config.dataset_probs}")


def _check_pairs(config: Settings) -> None:
    if config.shuffle_group > 1 and config.shuffle and config.dataset_probs:
        raise ClaraError("shuffle_group cannot keep rows together in a mix; leave dataset_probs out")
    if config.micro_train_batch_size > config.train_batch_size and "micro_train_batch_size" in config.given:
        raise ClaraError(
            f"micro_train_batch_size ({config.micro_train_batch_size}) must be at most train_batch_size "
            f"({config.train_batch_size})"
        )
    if config.flash_attn and not config.bf16:
        raise ClaraError("flash_attn computes in 16 bits only; pass --bf16 too")
    if config.zero_stage == 3 and any(
        value for name, value in config.trainer.items() if name.startswith("torch_compile")
    ):
        raise ClaraError("torch_compile cannot follow weights that are gathered layer by layer; pass --zero_stage 2")
    if config.read_text and config.qa_loss:
        raise ClaraError("read_text learns each answer after its own question; pass --qa_loss false too")
    _check_gate(config)
    if config.stage == "end_to_end" and config.mse_loss:
        raise ClaraError("mse_loss would train the compressor, which stage end_to_end keeps frozen; leave it out")


def _check_gate(config: Settings) -> None:
    """A gate that stays shut; that of a checkpoint to start from is looked at when it is loaded."""
    if config.residual_gate:
        return
    if config.residual == "none" and not config.pretrain_checkpoint:
        raise ClaraError("without residual_gate latents are the residual alone; pass --residual anchors or blocks too")
    if config.mse_loss and not config.read_text:
        raise ClaraError("mse_loss aligns states, which do not enter without residual_gate; pass --mse_loss false too")


def idle(config: Settings) -> list[str]:
    """What was asked for and has no effect in this run, one sentence each."""
    found = [f"--{name} means nothing here ({MEANINGLESS[name]}); it is ignored" for name in config.ignored]
    for name, stages in ONLY_IN.items():
        asked = getattr(config, name)
        if name in config.given and config.stage not in stages and not _is_harmless(name, asked):
            found.append(f"{name} does nothing in stage {config.stage}, only in {' and '.join(stages)}")
    return found + [f"{name} does nothing {reason}" for name, reason, there in _needs(config) if there]


def _needs(config: Settings) -> list[tuple[str, str, bool]]:
    """Settings that need another one: name, what is missing, whether that is so."""
    given, unevaluated = config.given, not config.eval_dataset
    needs = [
        (
            "new_learning_rate",
            "without load_checkpoint",
            config.new_learning_rate > 0 and not config.load_checkpoint,
        ),
        ("residual_gate", "with read_text", "residual_gate" in given and config.read_text),
        ("mse_weight", "without mse_loss", "mse_weight" in given and not config.mse_loss),
        *((name, "without ranking_loss", name in given and not config.ranking_loss) for name in RANKING),
        (
            "ranking_loss",
            "without ranking_warmup or ranking_weight",
            bool(config.ranking_loss) and not config.ranking_warmup and not config.ranking_weight,
        ),
        ("early_stopping", "without best_metric", config.early_stopping > 0 and not config.best_metric),
        ("best_metric", "without an evaluation set (--eval_dataset FILE)", bool(config.best_metric) and unevaluated),
        ("save_minutes", "with save_steps", "save_minutes" in given and config.save_steps != -1),
        ("do_eval_gen", "without an evaluation set (--eval_dataset FILE)", config.do_eval_gen and unevaluated),
        (
            "eval_steps",
            "without an evaluation set (--eval_dataset FILE)",
            "eval_steps" in given and config.eval_steps > 0 and unevaluated,
        ),
        ("shuffle_group", "with --shuffle False", config.shuffle_group > 1 and not config.shuffle),
        ("group_by_length", "with --shuffle False", config.group_by_length and not config.shuffle),
        ("flash_attn", "without a GPU", config.flash_attn and config.use_cpu),
        (
            "save_steps",
            "with disable_ds_ckpt and without save_hf_ckpt",
            config.save_steps != -1 and no_checkpoints(config),
        ),
    ]
    for name in ("wandb_project", "wandb_org", "wandb_group"):
        needs.append((name, "without use_wandb", name in given and not config.use_wandb))
    return needs


def no_checkpoints(config: Settings) -> bool:
    """Whether nothing is written on the way."""
    return config.disable_ds_ckpt and not config.save_hf_ckpt


def _is_harmless(name: str, asked: object) -> bool:
    """Whether a setting asks for what happens in other stages anyway; the published scripts pass qa_loss everywhere."""
    return asked is False or (name == "qa_loss" and asked is True)


def _check_room(config: Settings) -> None:
    """Slots must fit into max_len; sizes of a checkpoint are checked once it is read."""
    if config.pretrain_checkpoint or config.pretrain_retrieval:
        return
    check_slots(config, config.doc_max_length // config.compress_rate)


def check_slots(config: Settings, memory_tokens: int) -> None:
    """Refuse a ``max_len`` that the slots alone fill.

    Raises:
        ClaraError: with the length that is needed.
    """
    least = config.generation_top_k * (memory_tokens + 1) + LEAST_ROOM
    if config.max_len < least:
        raise ClaraError(
            f"max_len {config.max_len} cannot hold {config.generation_top_k} documents of {memory_tokens} memory "
            f"tokens each; pass --max_len {least} or more, or a higher compress_rate"
        )

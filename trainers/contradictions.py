"""Settings of a training run that are out of range, contradict each other or would do nothing, each with its fix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from trainers.arguments import TrainConfig

STAGES = ("pretrain", "instruct", "end_to_end")
SCHEDULERS = ("cosine", "cosine_with_min_lr", "linear", "constant")
POSITIVE = (
    "compress_rate doc_max_length lora_rank generation_top_k max_samples max_len shuffle_group train_batch_size "
    "max_epochs max_ckpt_num logging_steps learning_rate temperature"
).split()
NOT_NEGATIVE = (
    "lora_alpha micro_train_batch_size stage2_retrieval_top_n dataloader_workers mse_weight max_steps l2 max_norm seed"
).split()
ONLY_IN = {
    "keep_generator": ("instruct",),
    "pretrain_retrieval": ("end_to_end",),
    "qa_loss": ("pretrain",),
    "stage2_retrieval_top_n": ("end_to_end",),
    "mse_loss": ("pretrain", "instruct"),
    "mse_weight": ("pretrain", "instruct"),
    "temperature": ("end_to_end",),
}
"""Settings of some stages only; in another one they are refused, unless they ask for what happens there anyway."""
PROMPT_ROOM = 64
"""Prompt tokens beside the slots that are reckoned with."""


def check(config: TrainConfig) -> None:
    """Refuse what cannot be meant.

    Raises:
        ClaraError: one sentence with the value and the fix.
    """
    _check_ranges(config)
    _check_start(config)
    _check_effect(config)
    _check_room(config)


def _check_ranges(config: TrainConfig) -> None:
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
    if not 0 <= config.lr_warmup_ratio < 1:
        raise ClaraError(f"lr_warmup_ratio must be in [0, 1), got {config.lr_warmup_ratio}")
    if not 0 <= config.lora_dropout < 1:
        raise ClaraError(f"lora_dropout must be in [0, 1), got {config.lora_dropout}")
    if config.zero_stage not in (0, 1, 2, 3):
        raise ClaraError(f"zero_stage must be 0, 1, 2 or 3, got {config.zero_stage}")
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


def _check_start(config: TrainConfig) -> None:
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


def _check_effect(config: TrainConfig) -> None:
    for name, stages in ONLY_IN.items():
        asked = getattr(config, name)
        if name in config.given and config.stage not in stages and not _is_harmless(name, asked):
            raise ClaraError(
                f"{name} does nothing in stage {config.stage}, only in {' and '.join(stages)}; leave it out"
            )
    if "mse_weight" in config.given and not config.mse_loss:
        raise ClaraError("mse_weight does nothing without mse_loss; leave it out or pass --mse_loss")
    if config.do_eval_gen and not config.eval_dataset:
        raise ClaraError("do_eval_gen needs questions to answer; pass --eval_dataset FILE")
    if "eval_steps" in config.given and config.eval_steps > 0 and not config.eval_dataset:
        raise ClaraError("eval_steps does nothing without an evaluation set; pass --eval_dataset FILE or leave it out")
    if config.shuffle_group > 1 and not config.shuffle:
        raise ClaraError("shuffle_group does nothing with --shuffle False; leave one of them out")
    if config.shuffle_group > 1 and config.dataset_probs:
        raise ClaraError("shuffle_group cannot keep rows together in a mix; leave dataset_probs out")
    if config.micro_train_batch_size > config.train_batch_size and "micro_train_batch_size" in config.given:
        raise ClaraError(
            f"micro_train_batch_size ({config.micro_train_batch_size}) must be at most train_batch_size "
            f"({config.train_batch_size})"
        )
    if config.flash_attn and not config.bf16:
        raise ClaraError("flash_attn computes in 16 bits only; pass --bf16 too")
    if config.flash_attn and config.use_cpu:
        raise ClaraError("flash_attn needs a GPU; leave it or use_cpu out")
    if config.use_wandb and config.use_tensorboard:
        raise ClaraError("use_wandb and use_tensorboard were both given; choose one")
    for name in ("wandb_project", "wandb_run_name"):
        if name in config.given and not config.use_wandb:
            raise ClaraError(f"{name} does nothing without use_wandb; leave it out")


def _is_harmless(name: str, asked: object) -> bool:
    """Whether a setting asks for what happens in other stages anyway; the published scripts pass qa_loss everywhere."""
    return asked is False or (name == "qa_loss" and asked is True)


def _check_room(config: TrainConfig) -> None:
    """Slots must fit into max_len; sizes of a checkpoint are checked once it is read."""
    if config.pretrain_checkpoint or config.pretrain_retrieval:
        return
    check_slots(config, config.doc_max_length // config.compress_rate)


def check_slots(config: TrainConfig, memory_tokens: int) -> None:
    """Refuse a ``max_len`` that the slots alone fill.

    Raises:
        ClaraError: with the length that is needed.
    """
    least = config.generation_top_k * (memory_tokens + 1) + PROMPT_ROOM
    if config.max_len < least:
        raise ClaraError(
            f"max_len {config.max_len} cannot hold {config.generation_top_k} documents of {memory_tokens} memory "
            f"tokens each; pass --max_len {least} or more, or a higher compress_rate"
        )

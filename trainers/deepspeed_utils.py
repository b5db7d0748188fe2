"""DeepSpeed beneath the trainer: its configuration, starting it without compilers, gathering what ZeRO-3 has split.

What has a surprising default is written out: an unset ``gradient_clipping`` means 1.0, an optimizer that DeepSpeed
picks is compiled on first use, and starting on the CPU builds a shared-memory op.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clara_model.errors import needing

if TYPE_CHECKING:
    import transformers

    from trainers.training.train_config import TrainConfig


def configuration(config: TrainConfig, micro: int, accumulation: int, processes: int) -> dict[str, Any]:
    """DeepSpeed's own settings for a run whose steps are so many forward passes of ``micro`` rows in each process."""
    moved = {"": (), "optimizer": ("offload_optimizer",), "weights": ("offload_optimizer", "offload_param")}
    memory = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_batch_size": micro * accumulation * processes,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.max_norm,
        "bf16": {"enabled": config.bf16},
        "zero_optimization": {
            "stage": config.zero_stage,
            "stage3_param_persistence_threshold": 0,
            **{part: dict(memory) for part in moved[config.zero_offload]},
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }


def prepare(use_cpu: bool) -> None:
    """Before the process group starts: on the CPU, do without the op that needs a compiler."""
    with needing("a run of several processes", "deepspeed", "train"):
        import deepspeed.ops
    if use_cpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def not_split_at_load(args: transformers.TrainingArguments) -> Iterator[None]:
    """Load whole weights inside the block: a ZeRO-3 run would split them before roles and rows are added."""
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    config = getattr(args, "hf_deepspeed_config", None)
    if config is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(config)


def splits_weights(args: transformers.TrainingArguments) -> bool:
    """Whether the run is one of ZeRO 3."""
    config = getattr(args, "hf_deepspeed_config", None)
    return config is not None and config.is_zero3()


def split(module: nn.Module, args: transformers.TrainingArguments) -> None:
    """Under ZeRO 3 leave each process its part of the weights, on its device; otherwise do nothing.

    DeepSpeed would move a whole model to the device first. Here one weight at a time is there as a whole, and what is
    not split yet is the base's file, mapped, so that the processes of a machine share its pages.
    """
    if not splits_weights(args):
        return
    import deepspeed

    config = args.hf_deepspeed_config.config
    if config["bf16"]["enabled"]:
        for parameter in module.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    deepspeed.zero.Init(module=module, config_dict_or_path=config)
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(args.device))


@contextmanager
def gathered(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Whole parameters inside the block where ZeRO-3 has split them; every process must enter."""
    split = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not split:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(split):
        yield

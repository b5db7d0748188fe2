"""Where each stage starts: the model before its first step.

``pretrain``: fresh roles on a base model. ``instruct``: a pretrained compressor and a fresh generator (published
behaviour; ``keep_generator`` goes on with the trained one). ``end_to_end``: the query reasoner starts as a copy of the
compressor, memory rows included; the compressor is frozen.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch

from clara_model.checkpoint import base_files, files, gguf
from clara_model.checkpoint.base_model import load_base, resolve_base
from clara_model.checkpoint.config import ClaraConfig, read_json
from clara_model.checkpoint.options import LoadOptions
from clara_model.checkpoint.prompts import PromptSet
from clara_model.errors import ClaraError
from clara_model.inference.published import ClaraModel
from clara_model.modeling.adapters import default_targets
from trainers.data.row import Row
from trainers.data.rows import read_rows
from trainers.training.residual_start import at_rate, center_residuals, weigh_residuals
from trainers.training.train_config import SETTINGS, TrainConfig

logger = logging.getLogger(__name__)

PROMPT_ROOM = 512
"""Prompt tokens beside the slots in a new checkpoint's ``max_prompt_length``."""
CENTERED_ROWS = 2_000
"""Rows whose documents give a new residual its centre."""
WEIGHED_ROWS = 20_000
"""Rows that give a new residual's tokens their weights."""


def starting_model(config: TrainConfig, device: torch.device | str | None = None) -> ClaraModel:
    """The model a run starts from; the same for the same seed.

    Args:
        config: of the run.
        device: where it is put (default: the CPU or a GPU, as `default_device` says).

    Raises:
        ClaraError: the base model or checkpoint cannot be loaded, or does not fit the settings.
    """
    torch.manual_seed(config.seed)
    model = _from_checkpoint(config, device) if config.pretrain_checkpoint else _from_base(config, device)
    config.check_slots(model.config.memory_tokens)
    if config.stage == "instruct" and not config.keep_generator:
        model.roles.reset("generator")
    if config.stage == "end_to_end" and "query_reasoner" not in model.config.roles:
        model.add_role("query_reasoner", copy_of="compressor")
    slots = config.generation_top_k * (model.config.memory_tokens + 1)
    model.config = replace(
        model.config,
        top_k=config.generation_top_k,
        max_prompt_length=max(model.config.max_prompt_length, slots + PROMPT_ROOM),
        lora_dropout=config.lora_dropout,
        stage=config.stage,
    )
    for layer in model.roles.layers().values():  # whatever the checkpoint was made with
        for role in layer.lora_dropout:
            rate = config.lora_dropout
            layer.lora_dropout[role] = torch.nn.Dropout(rate) if rate > 0 else torch.nn.Identity()
    return model


def fetch(config: TrainConfig) -> None:
    """Bring what the run starts from into the hub's cache, where it comes from the hub; nothing is loaded.

    Raises:
        ClaraError: it is not there.
    """
    base, revision = config.pretrain, None
    if config.pretrain_checkpoint:
        folder = files.locate(config.pretrain_checkpoint)
        values = read_json(folder / files.CONFIG)
        named = values.get("base_model") or values.get("decoder_model_name")
        if not base and isinstance(named, str):
            base, revision = resolve_base(named, folder), values.get("base_revision")
    if base and not gguf.is_gguf(base):
        base_files.find(base, revision, None)


def dtype_of(config: TrainConfig) -> torch.dtype:
    """Of the frozen base."""
    if config.base_dtype:
        return cast("torch.dtype", getattr(torch, config.base_dtype))
    return torch.bfloat16 if config.bf16 else torch.float32


def on_cpu(config: TrainConfig) -> bool:
    """Whether the run has no GPU, by choice or because there is none."""
    return config.use_cpu or not torch.cuda.is_available()


def _load_options(config: TrainConfig, device: torch.device | str | None) -> LoadOptions:
    return LoadOptions(
        base_model=config.pretrain or None,
        prompts=config.prompts or None,
        dtype=dtype_of(config),
        device=device,
        attn_implementation="flash_attention_2" if config.flash_attn and not on_cpu(config) else "sdpa",
        quantization=config.quantization or None,
    )


def _from_base(config: TrainConfig, device: torch.device | str | None) -> ClaraModel:
    base, tokenizer = load_base(config.pretrain, _load_options(config, device))
    values = ClaraConfig(
        base_model=config.pretrain,
        base_revision=gguf.version(config.pretrain),
        base_sha256=gguf.sha256(config.pretrain) if gguf.is_gguf(config.pretrain) else None,
        doc_max_length=config.doc_max_length,
        compression_rate=config.compress_rate,
        roles=("compressor", "generator"),
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha or 2 * config.lora_rank,
        lora_targets=config.lora_targets or default_targets(base),
        lora_dropout=config.lora_dropout,
        residual=config.residual,
        ranking=config.ranking,
        prompts=PromptSet.from_file(config.prompts) if config.prompts else PromptSet(),
    )
    torch.manual_seed(config.seed)
    model = ClaraModel(base, tokenizer, values).to_float(torch.float32)
    if config.residual != "none":
        texts = (text for row in itertools.islice(_rows(config), CENTERED_ROWS) for text in row.documents)
        center_residuals(model, texts)
        weigh_residuals(model, itertools.islice(_rows(config), WEIGHED_ROWS))
    return model


def _rows(config: TrainConfig) -> Iterator[Row]:
    skip = config.bad_rows == "skip"
    return itertools.chain.from_iterable(read_rows([name], skip_bad=skip) for name in config.dataset)


def _from_checkpoint(config: TrainConfig, device: torch.device | str | None) -> ClaraModel:
    model = ClaraModel.from_options(config.pretrain_checkpoint, _load_options(config, device))
    if model.config.residual != "none" and config.stage == "pretrain" and "compress_rate" in config.given:
        model = at_rate(model, config.compress_rate, _load_options(config, device))
    for name, setting in SETTINGS.items():
        own = {"compress_rate": "compression_rate"}.get(name, name)
        if setting.metadata.get("fresh") and name in config.given:
            asked, value = getattr(config, name), getattr(model.config, own)
            if asked not in (value, 0):
                raise ClaraError(
                    f"{name} {asked} was asked for, but checkpoint {config.pretrain_checkpoint} was made with {value}; "
                    f"leave {name} out"
                )
    torch.manual_seed(config.seed)
    return model.to_float(torch.float32)

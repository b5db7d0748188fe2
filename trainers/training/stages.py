"""Where each stage starts: the model before its first step.

``pretrain``: fresh roles on a base model. ``instruct``: a pretrained compressor and a fresh generator, as published.
``end_to_end``: the query reasoner starts as a copy of the compressor, memory rows included. A residual with anchors
gets its centre and its tokens' weights from the training rows. Shapes: ``V`` vocabulary without added tokens.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from clara_model.checkpoint import base_files, files, gguf
from clara_model.checkpoint.base_model import load_base, resolve_base
from clara_model.checkpoint.config import ClaraConfig, read_json
from clara_model.checkpoint.options import LoadOptions
from clara_model.checkpoint.prompts import PromptSet
from clara_model.errors import ClaraError
from clara_model.inference.published import ClaraModel
from clara_model.modeling.adapters import default_targets
from clara_model.modeling.tokens import Tokens
from trainers.data.row import Row
from trainers.data.rows import read_rows
from trainers.training.train_config import SETTINGS, TrainConfig

logger = logging.getLogger(__name__)

PROMPT_ROOM = 512
"""Prompt tokens beside the slots in a new checkpoint's ``max_prompt_length``."""
CENTERED_ROWS = 2_000
"""Rows whose documents give a new residual its centre."""
WEIGHED_ROWS = 20_000
"""Rows that give a new residual's tokens their weights."""


def starting_model(config: TrainConfig, device: torch.device | str | None = None) -> ClaraModel:
    """The model a run starts from; the same for the same seed. By default on the CPU or a GPU, as there is.
    Raises `ClaraError`: the base model or checkpoint cannot be loaded, or does not fit the settings.
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
    """Bring what the run starts from into the hub's cache, where it comes from the hub; nothing is loaded."""
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
                made = f"checkpoint {config.pretrain_checkpoint} was made with {value}"
                raise ClaraError(f"{name} {asked} was asked for, but {made}; leave {name} out")
    torch.manual_seed(config.seed)
    return model.to_float(torch.float32)


RAREST, ANSWERED, ASKED, UNIT = 10.5, 6.0, 2.0, 9.0
PRIOR = 20.0
"""Places of an average token that every token is given before anything is counted."""


def weigh_residuals(model: ClaraModel, rows: Iterable[Row]) -> None:
    """Give every residual the weights of these rows, as bfloat16 keeps them, so that the cut survives saving."""
    _set_residuals(model, "weight", token_weights(model.tokens, rows, model.tokens.added_ids[0]).bfloat16())


@torch.no_grad()
def _set_residuals(model: ClaraModel, part: str, value: Tensor) -> None:
    for name, parameter in model.residuals.named(list(model.residuals.of)).items():
        if name.endswith(f".{part}"):
            parameter.copy_(value)


def token_weights(tokens: Tokens, rows: Iterable[Row], vocabulary: int) -> Tensor:
    """How much each token weighs ``[V]``, float32.

    ``min(-log p, RAREST) + 6 log(answered / mean) + 2 log(asked / mean)``, divided by `UNIT`: ``p`` the token's share
    of the text, ``answered`` the share of its places that are part of an answer where that first stands in a document,
    in any case, ``asked`` the share whose text's questions hold it too. Digits and names weigh much, full stops and
    articles little. The factors are measured (docs/experiments).
    """
    seen, answered, asked = ([0] * vocabulary for _ in range(3))
    for row in rows:
        questions = set(tokens.plain_ids(" " + " ".join(row.questions)))
        for text in row.documents:
            answers = [answer.lower() for answer in row.answers] if row.questions else []
            spans = [(at, at + len(one)) for one in answers if (at := text.lower().find(one)) >= 0]
            for token, start, end in tokens.placed_ids(text):
                seen[token] += 1
                answered[token] += any(start < last and end > first for first, last in spans)
                asked[token] += token in questions
    seen_V, answered_V, asked_V = (torch.tensor(counts, dtype=torch.float32) for counts in (seen, answered, asked))
    rare = -((seen_V + 0.5) / (seen_V + 0.5).sum()).log()
    weights = rare.clamp_max(RAREST) + ANSWERED * _odds(answered_V, seen_V) + ASKED * _odds(asked_V, seen_V)
    return weights / UNIT


def _odds(count_V: Tensor, seen_V: Tensor) -> Tensor:
    """Logarithm of each token's share over the mean share; nothing at all was counted: 0."""
    mean = count_V.sum() / seen_V.sum().clamp_min(1)
    if not mean:
        return torch.zeros_like(count_V)
    return ((count_V + PRIOR * mean) / (seen_V + PRIOR) / mean).log()


@torch.no_grad()
def center_residuals(model: ClaraModel, texts: Iterable[str]) -> None:
    """Set every residual's centre to the mean input embedding of running text."""
    weight = cast(Tensor, model.base.get_input_embeddings().weight)
    ids = torch.tensor([i for text in texts for i in model.tokens.plain_ids(text)], device=weight.device)
    counts = torch.bincount(ids, minlength=len(weight)).to(torch.float32)
    _set_residuals(model, "center", (counts / counts.sum()) @ weight.float())


@torch.no_grad()
def at_rate(model: ClaraModel, rate: int, options: LoadOptions) -> ClaraModel:
    """The checkpoint at another compression rate: its adapters and residual, and memory rows of the nearest tokens.
    The model stays as it is; the base is loaded anew, whose vocabulary has other added tokens at another rate.
    """
    config = replace(model.config, compression_rate=rate)
    options = replace(options, revision=config.base_revision)
    base, tokenizer = load_base(config.base_model, options, sha256=config.base_sha256)
    new = ClaraModel(base, tokenizer, config, to_be_loaded=True).to_float(torch.float32)
    state = model.state()
    nearest = torch.arange(config.memory_tokens) * model.config.memory_tokens // config.memory_tokens
    state.config = config
    state.memory = {role: rows[nearest] for role, rows in state.memory.items()}
    state.embeddings = {name: torch.cat([rows[nearest], rows[-3:]]) for name, rows in state.embeddings.items()}
    new.load_weights(state)
    return new

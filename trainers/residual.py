"""A residual's start: its centre from the training texts, and a trained checkpoint taken to another compression rate.

Leaves out what the residual computes (`clara_model.modeling.residual`). Shapes: ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from clara_model.checkpoint.base_model import load_base
from clara_model.checkpoint.options import LoadOptions
from clara_model.inference.published import ClaraModel


@torch.no_grad()
def center_residuals(model: ClaraModel, texts: Iterable[str]) -> None:
    """Set every residual's centre to the mean input embedding of running text."""
    weight = cast(Tensor, model.base.get_input_embeddings().weight)
    ids = torch.tensor([i for text in texts for i in model.tokens.plain_ids(text)], device=weight.device)
    counts = torch.bincount(ids, minlength=len(weight)).to(torch.float32)
    center_D = (counts / counts.sum()) @ weight.float()
    for name, parameter in model.residuals.named(list(model.residuals.of)).items():
        if name.endswith(".center"):
            parameter.copy_(center_D)


@torch.no_grad()
def at_rate(model: ClaraModel, rate: int, options: LoadOptions) -> ClaraModel:
    """The checkpoint at another compression rate: the same adapters, centre and gate, and what fits of the rest.

    Projections of the places that both rates have stay; memory rows are those of the nearest memory tokens.

    Args:
        model: with a residual; left as it is.
        rate: the new ``compression_rate``.
        options: of loading the base model anew, whose vocabulary has other added tokens at another rate.
    """
    config = replace(model.config, compression_rate=rate)
    base, tokenizer = load_base(
        config.base_model, replace(options, revision=config.base_revision), sha256=config.base_sha256
    )
    new = ClaraModel(base, tokenizer, config, to_be_loaded=True).to_float(torch.float32)
    state = model.state()
    nearest = torch.arange(config.memory_tokens) * model.config.memory_tokens // config.memory_tokens
    state.config = config
    state.memory = {role: rows[nearest] for role, rows in state.memory.items()}
    state.embeddings = {name: torch.cat([rows[nearest], rows[-3:]]) for name, rows in state.embeddings.items()}
    for name, fresh in new.residuals.named(config.roles).items():
        kept = state.residual[name][: len(fresh)]
        state.residual[name] = torch.cat([kept, fresh.detach()[len(kept) :].to(kept)])
    new.load_weights(state)
    return new

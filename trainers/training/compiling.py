"""``--torch_compile``: every decoder layer is compiled by itself, in training alone.

A whole step has branches that break its graph, a layer has none. All layers share their compiled forms, one for each
role that runs and for batches with and without padding. Layers stay the modules they are, under their names, for roles
and checkpoints: accelerate's `compile_regions` puts others in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from clara_model.errors import ClaraError

SETTINGS = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
"""Of `transformers.TrainingArguments`, which would compile the whole step."""


def wanted(settings: Mapping[str, Any]) -> bool:
    """Whether a run's settings ask for it; a backend or a mode does so too, as in `transformers`."""
    return any(settings.get(name) for name in SETTINGS)


def compile_layers(base: nn.Module, settings: Mapping[str, Any]) -> None:
    """Have the decoder layers compiled when they first run; with gradient checkpointing on, each of their parts."""
    layers = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ClaraError(f"torch_compile finds no decoder layers in {type(base).__name__}; leave it out")
    backend = settings.get("torch_compile_backend") or "inductor"
    for layer in layers:  # what gradient checkpointing runs twice is compiled inside of it
        for part in layer.children() if layer.gradient_checkpointing else [layer]:
            part.compile(dynamic=True, backend=backend, mode=settings.get("torch_compile_mode"))

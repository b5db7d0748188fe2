"""What a checkpoint folder holds, read into memory, and the names of its files; both layouts are read into this form.

Leaves out reading and writing (`checkpoint.files`, `checkpoint.published`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from clara_model.checkpoint.config import ClaraConfig
from clara_model.checkpoint.tensor_files import Shapes
from clara_model.errors import ClaraError

CONFIG, ADAPTERS = "config.json", "adapters.safetensors"
EMBEDDINGS = ("embed_tokens", "lm_head")
UNTRAINED = "untrained"
"""Name of the note in the adapters file that lists the roles without LoRA weights in it, by commas."""


@dataclass
class Checkpoint:
    """The contents of a folder; ``D`` hidden size, ``M`` memory tokens, ``V`` vocabulary with the added tokens."""

    config: ClaraConfig
    adapters: dict[str, dict[str, Tensor]]
    """LoRA weights by role, keys as in `clara_model.modeling.adapters.Roles.parameters`; none for a role whose adapter
    was never trained, which starts as `fresh`."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """Memory-token rows ``[M, D]`` by role; a role that is absent takes the added rows of the embedding."""
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    """``embed_tokens`` and, where untied, ``lm_head``: the added rows ``[M + 3, D]`` or the whole matrix ``[V, D]``."""
    residual: dict[str, Tensor] = field(default_factory=dict)
    """What `clara_model.modeling.residual` adds, by its full name, e.g. ``residual.compressor.gate``."""
    folder: Path = Path()


def check_sizes(config: ClaraConfig, ranks: dict[str, Shapes], rows: dict[str, int], path: Path) -> None:
    """Compare a configuration's sizes with what a file holds, before anything of these sizes is built.

    Args:
        config: of the checkpoint.
        ranks: for each role that must have weights the shapes of its LoRA matrices by key.
        rows: of each matrix with the memory tokens' rows, how many there are.
        path: the file, for the error.

    Raises:
        ClaraError: the configuration asks for more memory tokens or another LoRA rank than the file has.
    """
    for role in ranks:
        first = next((shape for key, shape in ranks[role].items() if ".lora_A." in key), None)
        if first is None:
            raise ClaraError(f"{path} holds no LoRA weights of the {role.replace('_', ' ')}; is the download complete?")
        rank = first[0] if first else 0
        if rank != config.lora_rank:
            raise ClaraError(
                f"{path} holds LoRA weights of rank {rank} for the {role.replace('_', ' ')}, {CONFIG} says "
                f"{config.lora_rank}; do the two files belong together?"
            )
    for name, found in rows.items():
        if found < config.memory_tokens:
            raise ClaraError(
                f"{path} holds {found} rows in {name}, {CONFIG} asks for {config.memory_tokens} memory tokens "
                f"({config.doc_max_length} // {config.compression_rate}); do the two files belong together?"
            )


def fresh(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The start of an adapter that no file holds: PEFT's, an output of zero, and always the same numbers.

    Args:
        weights: LoRA matrices by key, for their names, shapes and element type.
    """
    generator, start = torch.Generator().manual_seed(0), {}
    for name in sorted(weights):
        drawn = (2 * torch.rand(weights[name].shape, generator=generator) - 1) / weights[name].shape[1] ** 0.5
        start[name] = (drawn if ".lora_A." in name else torch.zeros_like(drawn)).to(weights[name].dtype)
    return start

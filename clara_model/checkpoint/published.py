"""The published CLaRa and PISCO folders, read into a `Checkpoint`.

``config.json``, ``adapters.pth``, ``decoder_first_last_layers.pth``, and a modeling file that is only ever parsed. The
tensors are read as data. Leaves out writing these layouts.
Source: ml-clara commit 857c3cf, PISCO.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clara_model.checkpoint.config import LORA_TARGETS, from_published
from clara_model.checkpoint.contents import EMBEDDINGS, Checkpoint, check_sizes
from clara_model.checkpoint.prompts import PromptSet, from_folder
from clara_model.checkpoint.tensor_files import load_pickle
from clara_model.errors import ClaraError

PUBLISHED_ADAPTERS, PUBLISHED_EMBEDDINGS = "adapters.pth", "decoder_first_last_layers.pth"
PUBLISHED_ROLES = {
    "encoder_adapter": "compressor",
    "query_reasoner_adapter": "query_reasoner",
    "decoder_adapter": "generator",
}


def read_published(folder: Path, values: dict[str, Any], prompts: PromptSet | None) -> Checkpoint:
    """Read a published folder with its ``config.json``; ``prompts`` replace those of its modeling file.

    Raises:
        ClaraError: a file is missing, damaged, does not fit the others, or holds pickled code.
    """
    path = folder / PUBLISHED_ADAPTERS
    adapters: dict[str, dict[str, Tensor]] = {}
    memory_source: dict[str, Tensor] = {}
    for name, weights in load_pickle(path).items():
        if name not in PUBLISHED_ROLES:
            raise ClaraError(f"{path} holds an unknown adapter {name!r}; known are {', '.join(PUBLISHED_ROLES)}")
        _check_tensors(path, weights)
        adapters[PUBLISHED_ROLES[name]] = {key: tensor for key, tensor in weights.items() if ".lora_" in key}
        memory_source = memory_source or {k: t for k, t in weights.items() if ".lora_" not in k}
    config = from_published(values, tuple(adapters), prompts or from_folder(folder), _targets(adapters))
    if (folder / PUBLISHED_EMBEDDINGS).is_file():
        memory_source = load_pickle(folder / PUBLISHED_EMBEDDINGS)
        _check_tensors(folder / PUBLISHED_EMBEDDINGS, memory_source)
    if not memory_source:
        raise ClaraError(f"{folder / PUBLISHED_EMBEDDINGS} is missing; is the download complete?")
    embeddings = {}
    for name in EMBEDDINGS:
        matching = [tensor for key, tensor in memory_source.items() if key.endswith(f"{name}.weight")]
        if matching:
            embeddings[name] = matching[0].detach()
    ranks = {role: {key: tuple(t.shape) for key, t in weights.items()} for role, weights in adapters.items()}
    rows = {name: len(tensor) if tensor.dim() else 0 for name, tensor in embeddings.items()}
    check_sizes(config, ranks, rows, path)
    return Checkpoint(config, adapters, embeddings=embeddings, folder=folder)


def _targets(adapters: dict[str, dict[str, Tensor]]) -> tuple[str, ...]:
    """The layers that have adapters, by the last part of their names; the published configuration does not say."""
    keys = (key.partition(".lora_")[0] for weights in adapters.values() for key in weights)
    found = tuple(dict.fromkeys(key.rpartition(".")[2] for key in keys))
    return LORA_TARGETS if not found or set(found) == set(LORA_TARGETS) else found


def _check_tensors(path: Path, weights: object) -> None:
    if not isinstance(weights, dict) or not all(_is_weight(*item) for item in weights.items()):
        raise ClaraError(f"{path} must hold tensors by name, got something else; is it a CLaRa or PISCO file?")


def _is_weight(key: object, tensor: object) -> bool:
    dense = isinstance(tensor, Tensor) and tensor.layout is torch.strided and tensor.is_floating_point()
    return isinstance(key, str) and dense

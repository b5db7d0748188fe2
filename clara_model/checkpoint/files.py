"""Checkpoint folders to weights and back: this project's layout, and the published CLaRa and PISCO ones to read.

Ours: ``config.json`` (with prompts) and ``adapters.safetensors`` (``<role>.<LoRA key>``, ``memory.<role>``,
``embed_tokens.added``, ``lm_head.added``, or ``.weight`` where the whole matrix differs from the base's). A role whose
adapter is still as loading starts one is named in the file's metadata instead (``untrained``).
Published: ``config.json``, ``adapters.pth``, ``decoder_first_last_layers.pth``, and a modeling file that is only ever
parsed (ml-clara commit 857c3cf, PISCO).
Nothing in a checkpoint is executed, and its sizes are compared with the files' before anything of that size is built.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import load_file, save_file
from torch import Tensor

from clara_model.checkpoint.config import LORA_TARGETS, ClaraConfig, from_published, read_json
from clara_model.checkpoint.prompts import PromptSet, from_folder
from clara_model.checkpoint.tensor_files import Shapes, load_pickle, safetensors_note, safetensors_shapes
from clara_model.errors import ClaraError, naming

logger = logging.getLogger(__name__)

CONFIG, ADAPTERS = "config.json", "adapters.safetensors"
EMBEDDINGS = ("embed_tokens", "lm_head")
UNTRAINED = "untrained"
"""Name of the note in the adapters file that lists the roles without LoRA weights in it, by commas."""


PUBLISHED_ADAPTERS, PUBLISHED_EMBEDDINGS = "adapters.pth", "decoder_first_last_layers.pth"
PUBLISHED_ROLES = {
    "encoder_adapter": "compressor",
    "query_reasoner_adapter": "query_reasoner",
    "decoder_adapter": "generator",
}
BUNDLED = Path(__file__).parents[1] / "bundled"
ABOUT = ["README.md", "LICENSE*"]
"""What comes with a checkpoint for people: its card, which names the licence of the weights, and the licence."""


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


def locate(name: str, subfolder: str | None = None, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a checkpoint: a local folder, a bundled name such as ``clara-tiny``, or a download from the hub.

    A local folder wins over a hub repository of the same name.

    Raises:
        ClaraError: there is no such folder, or the hub cannot be reached or has no such repository.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        root = local
    elif (BUNDLED / name / CONFIG).is_file():
        root = BUNDLED / name
    else:
        root = _download(name, subfolder, revision, token)
    folder = root / subfolder if subfolder else root
    if not (folder / CONFIG).is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        hint = f"; pass subfolder= one of {', '.join(inside)}" if inside else ""
        raise ClaraError(f"{folder} holds no {CONFIG}{hint}")
    return folder


def _download(name: str, subfolder: str | None, revision: str | None, token: str | None) -> Path:
    wanted = [CONFIG, "*.safetensors", "*.pth", "*.py", "*.json", "*.jinja", "*.model"]
    patterns = [f"{subfolder}/{pattern}" for pattern in wanted] if subfolder else wanted
    patterns += ABOUT  # of the repository: a checkpoint in a subfolder has the licence that is named there
    try:
        # The configurations first: without subfolder= a repository of several checkpoints is gigabytes for a hint.
        configs = [CONFIG, f"*/{CONFIG}"]
        root = Path(snapshot_download(name, revision=revision, allow_patterns=configs, token=token))
        if not (root / (subfolder or ".") / CONFIG).is_file():
            return root
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, token=token))
    except HFValidationError as error:
        raise ClaraError(f"{name!r} is neither a folder, a bundled model nor a hub name") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        bundled = ", ".join(sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}"))) or "none"
        raise ClaraError(
            f"{name!r} is no local folder and could not be fetched from the hub ({type(error).__name__}); "
            f"check the name and the network, or use a bundled model ({bundled})"
        ) from error


def read(folder: Path, prompts: str | Path | PromptSet | None = None) -> Checkpoint:
    """Read a checkpoint folder of either layout; ``prompts`` (or a file of them) replace the checkpoint's own.

    Raises:
        ClaraError: a file is missing, damaged, or holds pickled code.
    """
    chosen = prompts if isinstance(prompts, PromptSet) or prompts is None else PromptSet.from_file(prompts)
    values = read_json(folder / CONFIG)
    with naming(folder / CONFIG):
        if "format" in values:
            return _read_own(folder, values, chosen)
        if "compr_rate" in values:
            return _read_published(folder, values, chosen)
    raise ClaraError(f"{folder / CONFIG} is not a CLaRa or PISCO configuration; is this a base model's folder?")


def _read_own(folder: Path, values: dict[str, object], prompts: PromptSet | None) -> Checkpoint:
    config = ClaraConfig.from_dict(values if prompts is None else values | {"prompts": prompts.to_dict()})
    _check_header(config, folder / ADAPTERS)
    tensors = load_file(folder / ADAPTERS)
    checkpoint = Checkpoint(config, {role: {} for role in config.roles}, folder=folder)
    for key, tensor in tensors.items():
        head, _, rest = key.partition(".")
        if head == "memory" and rest in checkpoint.adapters:
            checkpoint.memory[rest] = tensor
        elif head in EMBEDDINGS:
            checkpoint.embeddings[head] = tensor
        elif head == "residual":
            checkpoint.residual[key] = tensor
        elif head in checkpoint.adapters:
            checkpoint.adapters[head][rest] = tensor
        else:
            raise ClaraError(f"{folder / ADAPTERS} holds {key!r}, which belongs to none of the roles in {CONFIG}")
    return checkpoint


def _check_header(config: ClaraConfig, path: Path) -> None:
    """Compare the configuration's sizes with the file's header; no tensor is read."""
    shapes = safetensors_shapes(path)
    untrained = safetensors_note(path, UNTRAINED).split(",")
    ranks: dict[str, Shapes] = {role: {} for role in config.roles if role not in untrained}
    rows: dict[str, int] = {}
    for key, shape in shapes.items():
        head, _, rest = key.partition(".")
        if head in ranks:
            ranks[head][rest] = shape
        elif head == "memory" or head in EMBEDDINGS:
            rows[key] = shape[0] if shape else 0
    _check_sizes(config, ranks, rows, path)


def _read_published(folder: Path, values: dict[str, Any], prompts: PromptSet | None) -> Checkpoint:
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
    _check_sizes(config, ranks, rows, path)
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


def _check_sizes(config: ClaraConfig, ranks: dict[str, Shapes], rows: dict[str, int], path: Path) -> None:
    """Compare LoRA ranks by role, and rows of memory tokens by matrix, before anything of these sizes is built."""
    for role, shapes in ranks.items():
        name = role.replace("_", " ")
        first = next((shape for key, shape in shapes.items() if ".lora_A." in key), None)
        if first is None:
            raise ClaraError(f"{path} holds no LoRA weights of the {name}; is the download complete?")
        if first[:1] != (config.lora_rank,):
            raise ClaraError(
                f"{path} holds LoRA weights of rank {first[0] if first else 0} for the {name}, {CONFIG} says "
                f"{config.lora_rank}; do the two files belong together?"
            )
    for name, found in rows.items():
        if found < config.memory_tokens:
            raise ClaraError(
                f"{path} holds {found} rows in {name}, {CONFIG} asks for {config.memory_tokens} memory tokens "
                f"({config.doc_max_length} // {config.compression_rate}); do the two files belong together?"
            )


def fresh(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The start of an adapter with such LoRA matrices: PEFT's, an output of zero, and always the same numbers."""
    generator, start = torch.Generator().manual_seed(0), {}
    for name in sorted(weights):
        drawn = (2 * torch.rand(weights[name].shape, generator=generator) - 1) / weights[name].shape[1] ** 0.5
        start[name] = (drawn if ".lora_A." in name else torch.zeros_like(drawn)).to(weights[name].dtype)
    return start


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write ``config.json`` and ``adapters.safetensors``; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"memory.{role}": rows for role, rows in checkpoint.memory.items()}
    tensors |= checkpoint.residual
    added = checkpoint.config.memory_tokens + 3
    for name, rows in checkpoint.embeddings.items():
        tensors[f"{name}.added" if len(rows) == added else f"{name}.weight"] = rows
    untrained = [role for role, weights in checkpoint.adapters.items() if _is_fresh(weights)]
    for role, weights in checkpoint.adapters.items():
        tensors |= {} if role in untrained else {f"{role}.{key}": weight for key, weight in weights.items()}
    temporary = folder / f".{ADAPTERS}.partial"
    saved = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    save_file(saved, temporary, {UNTRAINED: ",".join(untrained)} if untrained else None)
    os.replace(temporary, folder / ADAPTERS)
    temporary = folder / f".{CONFIG}.partial"
    config = replace(checkpoint.config, base_model=_base_seen_from(folder, checkpoint.config.base_model))
    temporary.write_text(json.dumps(config.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, folder / CONFIG)


def _is_fresh(weights: dict[str, Tensor]) -> bool:
    """Whether an adapter is as loading starts one that is not stored, so that nothing is lost, bit for bit."""
    if any(bool(weight.any()) for name, weight in weights.items() if ".lora_B." in name):
        return False
    return all(torch.equal(weights[name].detach().cpu(), start) for name, start in fresh(weights).items())


def _base_seen_from(folder: Path, base: str) -> str:
    """A base model inside the checkpoint's folder is named relative to it; a folder elsewhere by its full path."""
    if base.startswith("./") or not Path(base).is_dir():
        return base
    full, root = Path(base).resolve(), folder.resolve()
    return f"./{full.relative_to(root).as_posix()}" if full.is_relative_to(root) and full != root else str(full)

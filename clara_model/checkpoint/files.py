"""Checkpoint folders to weights and back: this project's safetensors layout, and the published CLaRa and PISCO ones.

Ours: ``config.json`` (with prompts) and ``adapters.safetensors`` (``<role>.<LoRA key>``, ``memory.<role>``,
``embed_tokens.added``, ``lm_head.added``, or ``.weight`` where the whole matrix differs from the base's). Published:
``config.json``, ``adapters.pth``, ``decoder_first_last_layers.pth``, a modeling file that is only ever parsed. Nothing
in a checkpoint is executed.
Floor 2: knows files and tensors; what a model does with them is `clara_model.modeling.model`'s.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clara_model.checkpoint.config import ClaraConfig, from_published, read_json
from clara_model.checkpoint.prompts import PromptSet
from clara_model.errors import ClaraError

logger = logging.getLogger(__name__)

CONFIG, ADAPTERS = "config.json", "adapters.safetensors"
PUBLISHED_ADAPTERS, PUBLISHED_EMBEDDINGS = "adapters.pth", "decoder_first_last_layers.pth"
PUBLISHED_ROLES = {
    "encoder_adapter": "compressor",
    "query_reasoner_adapter": "query_reasoner",
    "decoder_adapter": "generator",
}
EMBEDDINGS = ("embed_tokens", "lm_head")
BUNDLED = Path(__file__).parents[1] / "bundled"


@dataclass
class Checkpoint:
    """The contents of a folder; ``D`` hidden size, ``M`` memory tokens, ``V`` vocabulary with the added tokens."""

    config: ClaraConfig
    adapters: dict[str, dict[str, Tensor]]
    """LoRA weights by role, keys as in `clara_model.modeling.adapters.Roles.parameters`."""
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
    """Read a checkpoint folder of either layout.

    Args:
        folder: holds ``config.json``.
        prompts: overrides the checkpoint's prompts: a `PromptSet`, or a file for `PromptSet.from_file`.

    Raises:
        ClaraError: a file is missing, damaged, or holds pickled code.
    """
    chosen = prompts if isinstance(prompts, PromptSet) or prompts is None else PromptSet.from_file(prompts)
    values = read_json(folder / CONFIG)
    if "format" in values:
        return _read_own(folder, values, chosen)
    if "compr_rate" in values:
        return _read_published(folder, values, chosen)
    raise ClaraError(f"{folder / CONFIG} is not a CLaRa or PISCO configuration; is this a base model's folder?")


# -- this project's layout --------------------------------------------------------------------------------------


def _read_own(folder: Path, values: dict[str, object], prompts: PromptSet | None) -> Checkpoint:
    config = ClaraConfig.from_dict(values if prompts is None else values | {"prompts": prompts.to_dict()})
    tensors = _load_safetensors(folder / ADAPTERS)
    checkpoint = Checkpoint(config, {role: {} for role in config.roles}, folder=folder)
    for key, tensor in tensors.items():
        head, _, rest = key.partition(".")
        if head == "memory":
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


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write ``config.json`` and ``adapters.safetensors``; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"memory.{role}": rows for role, rows in checkpoint.memory.items()}
    tensors |= checkpoint.residual
    added = checkpoint.config.memory_tokens + 3
    for name, rows in checkpoint.embeddings.items():
        tensors[f"{name}.added" if len(rows) == added else f"{name}.weight"] = rows
    for role, weights in checkpoint.adapters.items():
        tensors |= {f"{role}.{key}": weight for key, weight in weights.items()}
    temporary = folder / f".{ADAPTERS}.partial"
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, temporary)
    os.replace(temporary, folder / ADAPTERS)
    temporary = folder / f".{CONFIG}.partial"
    config = replace(checkpoint.config, base_model=_base_seen_from(folder, checkpoint.config.base_model))
    temporary.write_text(json.dumps(config.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, folder / CONFIG)


def _base_seen_from(folder: Path, base: str) -> str:
    """A base model inside the checkpoint's folder is named relative to it; a folder elsewhere by its full path."""
    if base.startswith("./") or not Path(base).is_dir():
        return base
    full, root = Path(base).resolve(), folder.resolve()
    return f"./{full.relative_to(root).as_posix()}" if full.is_relative_to(root) and full != root else str(full)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ClaraError(f"{path} is missing; is the download complete?")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ClaraError(f"{path} is damaged ({error}); download it again") from error


# -- the published layouts --------------------------------------------------------------------------------------


def _read_published(folder: Path, values: dict[str, object], prompts: PromptSet | None) -> Checkpoint:
    path = folder / PUBLISHED_ADAPTERS
    adapters: dict[str, dict[str, Tensor]] = {}
    memory_source: dict[str, Tensor] = {}
    for name, weights in _load_pickle(path).items():
        if name not in PUBLISHED_ROLES:
            raise ClaraError(f"{path} holds an unknown adapter {name!r}; known are {', '.join(PUBLISHED_ROLES)}")
        _check_tensors(path, weights)
        adapters[PUBLISHED_ROLES[name]] = {key: tensor for key, tensor in weights.items() if ".lora_" in key}
        memory_source = memory_source or {k: t for k, t in weights.items() if ".lora_" not in k}
    config = from_published(values, tuple(adapters), prompts or _published_prompts(folder))
    if (folder / PUBLISHED_EMBEDDINGS).is_file():
        memory_source = _load_pickle(folder / PUBLISHED_EMBEDDINGS)
        _check_tensors(folder / PUBLISHED_EMBEDDINGS, memory_source)
    if not memory_source:
        raise ClaraError(f"{folder / PUBLISHED_EMBEDDINGS} is missing; is the download complete?")
    embeddings = {}
    for name in EMBEDDINGS:
        matching = [tensor for key, tensor in memory_source.items() if key.endswith(f"{name}.weight")]
        if matching:
            embeddings[name] = matching[0].detach()
    return Checkpoint(config, adapters, embeddings=embeddings, folder=folder)


def _published_prompts(folder: Path) -> PromptSet:
    """The prompts a published checkpoint was trained with, from its modeling file's constants."""
    for path in sorted([*folder.glob("model*.py"), *folder.parent.glob("model*.py")]):
        return PromptSet.from_file(path)
    raise ClaraError(f"{folder} has no modeling file to read its prompts from; pass prompts= with a prompts file")


def _check_tensors(path: Path, weights: object) -> None:
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ClaraError(f"{path} must hold tensors by name, got something else; is it a CLaRa or PISCO file?")


def _load_pickle(path: Path) -> dict[str, Any]:
    """Contents of a ``.pth`` file; anything but tensors and plain containers is refused, unexecuted."""
    if not path.is_file():
        raise ClaraError(f"{path} is missing; is the download complete?")
    with path.open("rb") as file:
        start = file.read(2)
    if (
        start != b"PK" and start[:1] != b"\x80"
    ):  # neither a zip archive nor a pickle, such as a pointer or an error page
        raise ClaraError(f"{path} is not a PyTorch file; download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of a file that is refused in the next step
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = "GLOBAL" in str(error) or "class" in str(error)
        what = "holds pickled code, not only tensors" if code else "is damaged or holds pickled code"
        raise ClaraError(f"{path} {what}; it was refused and nothing in it was run") from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        first = str(error).partition(". ")[0].partition("\n")[0]
        raise ClaraError(f"{path} is damaged ({first}); download it again") from error
    if not isinstance(loaded, dict):
        raise ClaraError(f"{path} must hold a dictionary of tensors, got {type(loaded).__name__}")
    return loaded

"""The files of a base model: found in a folder or fetched from the hub, and checked before transformers reads them.

A folder is data. Its ``config.json`` must name a kind of model that the installed transformers has, code that it names
(``auto_map``) is never run, and the sizes that it asks for are compared with the headers of its weight files before
anything of that size is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from clara_model.checkpoint.config import read_json
from clara_model.checkpoint.tensor_files import Shapes, load_pickle, safetensors_shapes
from clara_model.errors import ClaraError, blaming, shown

CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""In the order in which transformers looks for them."""
_SMALL_FILES = ("*.json", "*.jinja", "tokenizer.model", "*.txt")
_MOST_TIMES = 2
"""Numbers that a model may have for each one in its files: a tied output matrix may be counted twice."""
_MOST_TIMES_QUANTISED = 32


@dataclass(frozen=True)
class BaseFiles:
    """A base model's folder after its check."""

    folder: Path
    config: PreTrainedConfig
    weights: tuple[Path, ...]
    """The weight files in the order of their names."""


def find(name: str, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a base model, fetched from the hub where there is no such folder here.

    Raises:
        ClaraError: neither a folder nor a hub name, or the hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    options: dict[str, Any] = {"revision": revision, "token": token}
    try:
        found = Path(snapshot_download(name, allow_patterns=list(_SMALL_FILES), **options))
        for wanted in (["model.safetensors"], ["pytorch_model.bin"]):
            if any((found / file).is_file() for file in WEIGHTS):
                break
            found = Path(snapshot_download(name, allow_patterns=wanted, **options))
        missing = [path.name for path in weight_files(found) if not path.is_file()]
        return Path(snapshot_download(name, allow_patterns=missing, **options)) if missing else found
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ClaraError(
            f"base model {name!r} could not be loaded (it is no folder, and the hub gave {type(error).__name__}); "
            "check its name and the network, or pass base_model= with a folder that holds it"
        ) from error


def check(folder: Path) -> BaseFiles:
    """Check a base model's folder, as far as that can be done without loading its weights.

    Raises:
        ClaraError: naming the file that is missing, damaged, or asks for what is never done.
    """
    config = _config(folder)
    files = weight_files(folder)
    shapes: Shapes = {}
    for file in files:
        pickled = file.suffix != ".safetensors"
        shapes |= _pickled_shapes(file) if pickled else safetensors_shapes(file)
    _check_sizes(folder / CONFIG, config, shapes)
    return BaseFiles(folder, config, files)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The weight files that transformers would read.

    Raises:
        ClaraError: there are none, or an index that does not say which.
    """
    first = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        raise ClaraError(f"base model folder {folder} holds no {WEIGHTS[0]}; is the download complete?")
    if first.suffix != ".json":
        return (first,)
    named = read_json(first).get("weight_map")
    values = list(named.values()) if isinstance(named, dict) else []
    plain = [value for value in values if isinstance(value, str) and Path(value).name == value]
    if not plain or len(plain) < len(values):
        raise ClaraError(f"{first} does not name the weight files of its own folder; download it again")
    return tuple(folder / value for value in sorted(set(plain)))


@contextmanager
def without_bars() -> Iterator[None]:
    """No bar of transformers over files that are read or written here; those of downloads stay as they were."""
    if not transformers_logging.is_progress_bar_enabled():
        yield
        return
    downloads_without = are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()  # it switches the hub's too
        if downloads_without:
            disable_progress_bars()


def _config(folder: Path) -> PreTrainedConfig:
    """The base's configuration, which names a causal language model that transformers itself has."""
    path = folder / CONFIG
    if not path.is_file():
        raise ClaraError(f"base model folder {folder} holds no {CONFIG}; is the download complete?")
    if (folder / "adapter_config.json").is_file():
        raise ClaraError(f"{folder / 'adapter_config.json'} makes this folder an adapter; the base must be whole")
    values = read_json(path)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        code = ", and code that a folder brings (auto_map) is never run" if "auto_map" in values else ""
        raise ClaraError(f"{path} has the model_type {shown(kind)}, which the installed transformers lacks{code}")
    if "transformers_weights" in values:
        raise ClaraError(f"{path} names weight files of its own (transformers_weights), which is not supported")
    with blaming(path):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ClaraError(
            f"{path} has the model_type {kind!r}, which is no causal language model; use a Llama-like base"
        )
    return config


def _check_sizes(path: Path, config: PreTrainedConfig, shapes: Shapes) -> None:
    """Refuse a configuration of a model much larger than its weight files."""
    held = sum(map(math.prod, shapes.values()))
    layers = getattr(config, "num_hidden_layers", 1)
    if not isinstance(layers, int) or not 1 <= layers <= len(shapes):
        raise ClaraError(f"{path} asks for {shown(layers)} layers, the weight files hold {len(shapes)} tensors")
    experts = [value for name, value in config.to_dict().items() if "expert" in name and isinstance(value, int)]
    if max(experts, default=0) > held:
        raise ClaraError(f"{path} asks for {max(experts)} experts, the weight files hold {held} numbers")
    with blaming(path), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="eager")
        wanted = sum(parameter.numel() for parameter in model.parameters())
    quantised = getattr(config, "quantization_config", None) is not None
    if wanted > held * (_MOST_TIMES_QUANTISED if quantised else _MOST_TIMES):
        raise ClaraError(
            f"{path} asks for a model of {wanted} numbers, the weight files hold {held}; do they belong together?"
        )


def _pickled_shapes(path: Path) -> Shapes:
    found = load_pickle(path, shapes_only=True)
    shapes = {str(key): tuple(value.shape) for key, value in found.items() if isinstance(value, torch.Tensor)}
    if not shapes:
        raise ClaraError(f"{path} holds no tensors; download it again")
    return shapes

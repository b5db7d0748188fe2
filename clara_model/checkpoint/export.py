"""The generator as an ordinary model in a folder, which a serving engine loads: merged weights, tokenizer, its name.

The weights come one shard at a time from those in memory, so a model is never there twice. The name is a hash of what
shapes an answer, rounded to bfloat16: a model in float32 and the same one in bfloat16 have one name.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from clara_model.checkpoint.config import read_json
from clara_model.checkpoint.hashes import hash_tensors
from clara_model.errors import ClaraError

DIGITS = 16
"""Hexadecimal digits in a name."""
NAME = "clara_generator"
"""Field of the folder's ``config.json`` that holds the name."""
SHARD = "1GB"
_ROLE = "generator"
_NOT_SHAPING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", NAME)


def generator_name(base: PreTrainedModel) -> str:
    """``clara-`` and a hash: what an engine serves this generator as, and what a client asks for.

    Raises:
        ClaraError: there is no generator, or its base is quantized.
    """
    if getattr(base.config, "quantization_config", None) is not None:
        raise ClaraError("a quantized base cannot be merged for an engine; load the model without quantization")
    layers = _layers(base).values()
    if not any(_ROLE in layer.lora_A for layer in layers):
        raise ClaraError("this checkpoint has no generator, so there is nothing for an engine to write with")
    settings = {name: value for name, value in base.config.to_diff_dict().items() if name not in _NOT_SHAPING}
    scales = [layer.scaling[_ROLE] for layer in layers]
    told = json.dumps([settings, base.generation_config.eos_token_id, scales], sort_keys=True, default=str)
    tensors = {name: one for name, one in base.state_dict().items() if ".lora_" not in name or f".{_ROLE}." in name}
    whole = hashlib.sha256(f"{told}\0{hash_tensors(tensors, torch.bfloat16)}".encode())
    return f"clara-{whole.hexdigest()[:DIGITS]}"


def export(base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    """Write the merged generator in the base's float type; the folder appears whole or not at all.

    Args:
        base: with the roles' adapters.
        tokenizer: with the added tokens.
        folder: new or empty, or one that holds this generator already, which is left as it is.

    Returns:
        the generator's name.

    Raises:
        ClaraError: the folder holds something else, there is no generator, or its base is quantized.
    """
    name = generator_name(base)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        held = read_json(folder / "config.json").get(NAME) if (folder / "config.json").is_file() else None
        if held != name:
            raise ClaraError(f"{folder} holds {held or 'something else'}; name a folder that is new or empty")
        return name
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)
        config = copy.deepcopy(base.config)
        config.architectures, config.dtype = [type(base).__name__], base.dtype
        setattr(config, NAME, name)
        config.save_pretrained(partial)
        base.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        _write_weights(base, partial)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return name


def _layers(base: PreTrainedModel) -> dict[str, Any]:
    """Those with adapters, which are `modeling.adapters.RoleLinear`."""
    return {name: module for name, module in base.named_modules() if hasattr(module, "lora_A")}


def _tensors(base: PreTrainedModel) -> dict[str, Any]:
    """Each weight of the plain model by its plain name, or the layer that it is merged from; tied ones once."""
    layers, seen = {f"{name}.weight": layer for name, layer in _layers(base).items()}, set()
    found: dict[str, Any] = {}
    for key, tensor in base.state_dict().items():
        place = tensor.data_ptr(), tensor.shape
        if ".lora_" not in key and place not in seen:
            seen.add(place)
            name = key.replace(".base_layer.", ".")
            found[name] = layers.get(name, tensor)
    return found


def _weight(found: Any) -> Tensor:
    """Of a layer ``W + scale * B A`` of the generator, summed in float32, as decoding has it."""
    if isinstance(found, Tensor):
        return found
    modules = found.base_layer, found.lora_A[_ROLE], found.lora_B[_ROLE]
    weight, down, up = (cast(Tensor, module.weight).detach() for module in modules)
    return torch.addmm(weight.float(), up.float(), down.float(), alpha=found.scaling[_ROLE]).to(weight.dtype)


def _write_weights(base: PreTrainedModel, folder: Path) -> None:
    tensors = _tensors(base)
    bare = {name: one if isinstance(one, Tensor) else one.base_layer.weight for name, one in tensors.items()}
    sizes = {name: cast(Tensor, tensor).to("meta") for name, tensor in bare.items()}
    plan = split_torch_state_dict_into_shards(sizes, max_shard_size=SHARD)
    for file, names in plan.filename_to_tensors.items():
        shard = {name: _weight(tensors[name]).to("cpu").contiguous() for name in names}
        save_file(shard, folder / file, {"format": "pt"})
        (folder / file).chmod(0o644)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")

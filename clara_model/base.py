"""Loading the base language model and its tokenizer: where it lies, its float type, attention and quantisation."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import is_flash_attn_2_available

from clara_model.errors import ClaraError

logger = logging.getLogger(__name__)

ATTENTION = ("sdpa", "eager", "flash_attention_2")
HUB_NAMES = {
    "Mistral-7B-Instruct-v0.2": "mistralai/Mistral-7B-Instruct-v0.2",
    "Mistral-7B-Instruct-v0.3": "mistralai/Mistral-7B-Instruct-v0.3",
    "Phi-4-mini-instruct": "microsoft/Phi-4-mini-instruct",
    "Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
}
"""Hub names for base models that published configurations name by a path of the machine they were trained on."""


def resolve_base(name: str, folder: Path) -> str:
    """The base model's folder or hub name, as a checkpoint in ``folder`` names it.

    A path that does not exist here is mapped by its last part to the hub name, with a warning.

    Raises:
        ClaraError: a path that does not exist and whose last part is not known.
    """
    beside = folder / name
    if name.startswith("./") and beside.is_dir():
        return str(beside)
    if Path(name).is_dir() or not re.match(r"^(/|\.|~)|.*/.*/", name):
        return name
    last = Path(name).name
    if last not in HUB_NAMES:
        raise ClaraError(f"the checkpoint's base model {name!r} does not exist here; pass base_model= with its name")
    logger.warning("the checkpoint names its base model by a path that is not here (%s); using %s", name, HUB_NAMES[last])
    return HUB_NAMES[last]


def default_device() -> torch.device:
    """A GPU where there is one, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes it in hardware, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        fast = bool(features.get("avx512_bf16") or features.get("amx_tile") or features.get("bf16"))
    return torch.bfloat16 if fast else torch.float32


def load_base(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    quantization: str | None = None,
    token: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a causal language model and its fast tokenizer.

    Args:
        name: folder or hub name.
        revision: of the hub repository.
        dtype: of the weights; `default_dtype` where not given.
        device: where the weights go; `default_device` where not given.
        attn_implementation: ``sdpa`` (default), ``eager`` or ``flash_attention_2``.
        quantization: ``int8`` or ``int4`` (bitsandbytes, GPU only).
        token: for private hub repositories.

    Raises:
        ClaraError: the model is not there, or something asked for is not installed.
    """
    device = torch.device(device) if device is not None else default_device()
    attention = attn_implementation or "sdpa"
    _check_attention(attention)
    options: dict[str, Any] = {"revision": revision, "token": token}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype or default_dtype(device),
            attn_implementation=attention,
            quantization_config=_quantization(quantization, device),
            device_map={"": device} if quantization else None,
            **options,
        )
    except (OSError, ValueError) as error:
        if isinstance(error, ClaraError):
            raise
        first = str(error).strip().splitlines()[0]
        raise ClaraError(f"base model {name!r} could not be loaded: {first}; pass base_model= with a folder") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ClaraError(f"base model {name!r} has no fast tokenizer (tokenizer.json), which is needed")
    return (model if quantization else model.to(device)), tokenizer


def _check_attention(attention: str) -> None:
    if attention not in ATTENTION:
        raise ClaraError(f"attn_implementation must be one of {', '.join(ATTENTION)}, got {attention!r}")
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise ClaraError(
            "flash_attention_2 was asked for but flash-attn or a supported GPU is not there; "
            "install clara-integrations[flash-attn] on a GPU machine, or use sdpa"
        )


def _quantization(quantization: str | None, device: torch.device) -> Any:  # noqa: ANN401 - BitsAndBytesConfig or None
    if quantization in (None, "no"):
        return None
    if quantization not in ("int8", "int4"):
        raise ClaraError(f"quantization must be int8, int4 or None, got {quantization!r}")
    if device.type != "cuda":
        raise ClaraError(f"quantization {quantization} needs a GPU (bitsandbytes), got device {str(device)!r}")
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)

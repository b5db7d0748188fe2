"""Where a model goes and in which float type: what is asked for, or the best there is."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from clara_model.errors import ClaraError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_of(asked: torch.device | str | None) -> torch.device:
    """The device that is asked for, a GPU with its number.

    Raises:
        ClaraError: an unknown one, or a GPU that is not here.
    """
    try:
        found = default_device() if asked is None else torch.device(asked)
    except (RuntimeError, TypeError) as error:
        raise ClaraError(f"device {asked!r} is unknown; use cpu, cuda or cuda:1") from error
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ClaraError(f"device {str(asked)!r} was asked for but torch sees no Apple GPU; use device='cpu'")
    if found.type not in ("cuda", "cpu", "mps", "xpu"):
        raise ClaraError(f"device {str(asked)!r} cannot hold a model; use cpu, cuda or cuda:1")
    if found.type != "cuda":
        return found
    if not torch.cuda.is_available():
        raise ClaraError(f"device {str(asked)!r} was asked for but torch sees no GPU; use device='cpu'")
    if found.index is not None and found.index >= torch.cuda.device_count():
        raise ClaraError(f"device {str(asked)!r} was asked for but torch sees {torch.cuda.device_count()} GPUs")
    return found if found.index is not None else torch.device("cuda", torch.cuda.current_device())


def dtype_of(asked: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The float type that is asked for, or the device's own.

    Raises:
        ValueError: an unknown one.
    """
    if asked is None:
        return default_dtype(device)
    if isinstance(asked, torch.dtype):
        return asked
    if asked not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {asked!r}")
    return DTYPES[asked]


def default_device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes it in hardware, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        ask = getattr(torch.cpu, "get_capabilities", dict)  # older torch cannot say
        features: dict[str, Any] = ask() if device.type == "cpu" else {}
        fast = bool(features.get("avx512_bf16") or features.get("amx_tile") or features.get("bf16"))
    return torch.bfloat16 if fast else torch.float32


KINDS = ("int8", "int4")
OLDEST = "0.48.0"
"""Of bitsandbytes: with 0.46.1 a base in int8 did not train on the CPU."""


def settings(kind: str | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How transformers loads the weights; None for as they are.

    Args:
        kind: ``int8`` (LLM.int8(), Dettmers et al. 2022), ``int4`` (NF4 in blocks of 64, Dettmers et al. 2023), or
            None or ``no``.
        dtype: that products with weights of 4 bits are computed in; those of 8 bits are bitsandbytes' own.

    Raises:
        ClaraError: an unknown kind, or bitsandbytes is not installed.
    """
    if kind in (None, "no"):
        return None
    if kind not in KINDS:
        raise ClaraError(f"quantization must be int8, int4 or None, got {kind!r}")
    if not is_bitsandbytes_available(OLDEST):
        raise ClaraError(
            f"quantization {kind} needs bitsandbytes {OLDEST} or later; install clara-integrations[quantization]"
        )
    if kind == "int8":
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # a line a layer in every pass
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def keep_as_loaded(model: nn.Module) -> None:
    """Let no pass change the weights.

    On a CPU with bfloat16 in hardware bitsandbytes packs 4-bit weights in place at the first pass without gradients. It
    rounds their scales, leaves those transposed when the weights are next read, and a packed layer passes no gradient
    on: latents would be others after a checkpoint's fingerprint, training wrong after an evaluation.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            cast(Any, module).support_avx512bf16_for_cpu = False

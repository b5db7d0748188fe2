"""Where a model goes and in which float type: what is asked for, or the best there is."""

from __future__ import annotations

from typing import Any

import torch

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

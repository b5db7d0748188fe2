"""A base model whose weights are kept in 8 or 4 bits, by bitsandbytes: on a GPU, and on the CPU too."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from clara_model.errors import ClaraError

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

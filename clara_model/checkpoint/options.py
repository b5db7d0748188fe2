"""How a checkpoint is loaded: the one list of options that loaders, commands and framework components go by.

Naming the options needs neither torch nor transformers; resolving them does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

if TYPE_CHECKING:
    import torch

    from clara_model.checkpoint.prompts import PromptSet


DECODINGS = ("quick", "exact")


class LoadKeywords(TypedDict, total=False):
    """`LoadOptions` as keyword arguments."""

    subfolder: str | None
    revision: str | None
    base_model: str | Path | None
    prompts: str | Path | PromptSet | None
    dtype: torch.dtype | str | None
    device: torch.device | str | None
    attn_implementation: str | None
    quantization: str | None
    decoding: str | None
    token: str | None


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a checkpoint is loaded; equal resolved options of one checkpoint are one model in memory."""

    subfolder: str | None = None
    """Inside the folder or repository, e.g. ``compression-16``."""
    revision: str | None = None
    """Of the hub repository."""
    base_model: str | Path | None = None
    """Folder, hub name or GGUF file of the base model, instead of the one the checkpoint names."""
    prompts: str | Path | PromptSet | None = None
    """Instead of the checkpoint's: a `PromptSet`, or a file as for `PromptSet.from_file`."""
    dtype: torch.dtype | str | None = None
    """``float32``, ``bfloat16`` or ``float16``; by default bfloat16 where the device has it in hardware."""
    device: torch.device | str | None = None
    """E.g. ``cuda:0`` or ``cpu``; by default a GPU where there is one."""
    attn_implementation: str | None = None
    """``sdpa`` (default), ``eager`` or ``flash_attention_2``."""
    quantization: str | None = None
    """``int8`` or ``int4`` of the base (bitsandbytes, extra ``quantization``)."""
    decoding: str | None = None
    """How a CPU multiplies while it generates. ``quick``: a single position in float16, several in bfloat16, each where
    the machine is faster so; about two answers in a hundred differ from float32's. ``exact``: in the weights' own float
    type. By default ``quick``, but where ``dtype`` asks for float32 ``exact``."""
    token: str | None = field(default=None, compare=False, repr=False)
    """For private hub repositories. It says who may fetch, not what, so it does not tell models apart."""

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Self:
        """From keyword arguments.

        Raises:
            TypeError: an unknown one.
        """
        unknown = sorted(set(keywords) - set(NAMES))
        if unknown:
            raise TypeError(f"unknown load option {', '.join(unknown)}; known are {', '.join(NAMES)}")
        return cls(**keywords)

    def resolved(self) -> Self:
        """The same with defaults and names made into values: float type, device, attention, prompts.

        Raises:
            ClaraError: a device that is not here, or prompts that cannot be read.
            ValueError: an unknown float type or way of decoding.
        """
        from clara_model.checkpoint.devices import device_of, dtype_of
        from clara_model.checkpoint.prompts import PromptSet

        device = device_of(self.device)
        if self.decoding not in (None, *DECODINGS):
            raise ValueError(f"decoding must be one of {', '.join(DECODINGS)}, got {self.decoding!r}")
        dtype, asked = dtype_of(self.dtype, device), self.prompts
        prompts = asked if isinstance(asked, PromptSet) or asked is None else PromptSet.from_file(asked)
        return replace(
            self,
            base_model=None if self.base_model is None else str(self.base_model),
            prompts=prompts,
            dtype=dtype,
            device=device,
            attn_implementation=self.attn_implementation or "sdpa",
            decoding=self.decoding or ("quick" if self.dtype is None or dtype.itemsize == 2 else "exact"),
        )


NAMES = tuple(option.name for option in fields(LoadOptions))

"""What a loaded checkpoint is, as plain values for `Clara.info`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from clara_model.inference.published import ClaraModel

NO_LICENCE = "not stated; ask where the checkpoint and its base model come from"


def facts(model: ClaraModel) -> dict[str, Any]:
    """Roles, sizes in parameters and bytes, float type, device: ready for JSON."""
    config = model.config
    adapters = list(model.trainable_parameters(config.roles).values())
    own = {id(parameter) for parameter in adapters}
    base = [parameter for parameter in model.parameters() if id(parameter) not in own]
    return {
        "stage": config.stage,
        "roles": list(config.roles),
        "compression_rate": config.compression_rate,
        "doc_max_length": config.doc_max_length,
        "memory_tokens": config.memory_tokens,
        "top_k": config.top_k,
        "lora_rank": config.lora_rank,
        "base_model": config.base_model,
        "base_parameters": sum(parameter.numel() for parameter in base),
        "base_bytes": _nbytes(base),
        "adapter_parameters": sum(parameter.numel() for parameter in adapters),
        "adapter_bytes": _nbytes(adapters),
        "dtype": str(model.base.dtype).removeprefix("torch."),
        "device": str(model.device),
        "fingerprint": model.fingerprint,
        "licence": config.licence or NO_LICENCE,
    }


def _nbytes(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

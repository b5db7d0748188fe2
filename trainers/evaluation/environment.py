"""Where and with what figures were made: processor, accelerator, versions, date."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("clara-integrations", "torch", "transformers", "peft", "bm25s", "sentence-transformers", "scipy")


def environment(device: torch.device) -> dict[str, str]:
    """Facts by name, in the order in which they are shown."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores used",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    return facts | {name: found for name in PACKAGES if (found := _version(name))}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """The processor's name and whether it has wide vectors and bfloat16, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = values.get("model name") or platform.processor() or platform.machine()
    flags = set(values.get("flags", "").split()) & {"avx512f", "avx512_bf16", "amx_bf16"}
    return " ".join([name, *sorted(flags)])

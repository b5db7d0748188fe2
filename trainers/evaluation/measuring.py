"""Seconds and peak memory of each phase of answering: on a GPU its memory, else the process's resident memory."""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PHASES = ("compress", "query", "rank", "generate")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """What the phases of one batch have taken."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside; the result of a pass is in host memory when it ends, so nothing is left to run."""
        _reset(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)
            peak = _peak(self.device)
            if peak is not None:
                self.peaks[name] = max(peak, self.peaks.get(name, 0))

    def add(self, name: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self.seconds[name] += seconds

    def share(self, questions: int) -> dict[str, float]:
        """Seconds by phase of one of so many questions."""
        return {name: round(value / questions, 6) for name, value in self.seconds.items()}


def _reset(device: torch.device) -> None:
    """Forget the highest value so far, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        with suppress(OSError):  # not allowed here: then the peak is the process's whole
            _CLEAR.write_text("5")  # Linux: resets the peak of the resident memory


def _peak(device: torch.device) -> int | None:
    """Bytes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _STATUS.exists():
        return None
    found = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) * 1024 if found else None


PACKAGES = ("clara-integrations", "torch", "transformers", "bm25s", "sentence-transformers", "scipy")


def environment(device: torch.device) -> dict[str, str]:
    """Facts by name, in the order in which they are shown."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores used",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    return facts | versions(PACKAGES)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    """The processor's name and whether it has wide vectors and bfloat16, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = values.get("model name") or platform.processor() or platform.machine()
    flags = set(values.get("flags", "").split()) & {"avx512f", "avx512_bf16", "amx_bf16"}
    return " ".join([name, *sorted(flags)])

"""Memory that a piece of work takes at most: the allocator's figures on a GPU, Linux's of the process on a CPU."""

import ctypes
import resource
import sys
from pathlib import Path

import torch


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def memory_now(device: str) -> int:
    """Bytes in use."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated()
    return _status("VmRSS") or _largest()


def reset_peak(device: str) -> None:
    """Begin anew to look for the most; what the C library keeps of freed memory goes back first."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass  # then the peak includes building the model


def memory_peak(device: str) -> int:
    """The most bytes in use since `reset_peak`."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM") or _largest()


def _status(name: str) -> int | None:
    """A line of Linux's process status, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _largest() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024

"""Checkpoint folders of a run: written under a temporary name and renamed, so that one is whole or is not there.

A ``checkpoint-STEP`` folder holds a loadable CLaRa checkpoint (roles, memory rows, rows of added tokens, no base)
and what resuming needs: optimizer, schedule, random numbers and the trainer's state.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from clara_model.errors import ClaraError
from trainers.training import optimizer_state

PREFIX = "checkpoint-"
PARTIAL = ".partial"
"""Folder inside ``save_path`` in which a checkpoint is written."""
STATE = "trainer_state.json"
TORCH_WRITES = ("inline_container", "iostream", "writing file", "write failed")
"""What `torch.save` calls a failure to write; it raises nothing better than ``RuntimeError``."""


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name; -1 where it is none."""
    number = folder.name.removeprefix(PREFIX)
    return int(number) if folder.name.startswith(PREFIX) and number.isdigit() else -1


def whole_checkpoints(save_path: Path) -> list[Path]:
    """Checkpoint folders that are whole, oldest first."""
    found = [folder for folder in save_path.glob(f"{PREFIX}*") if step_of(folder) >= 0 and (folder / STATE).is_file()]
    return sorted(found, key=step_of)


def newest_checkpoint(save_path: Path) -> Path | None:
    """The newest one that can be resumed from."""
    found = [folder for folder in whole_checkpoints(save_path) if (folder / optimizer_state.NAME).is_file()]
    return next(reversed(found), None)


def processes_of(checkpoint: Path) -> int:
    """How many processes wrote a checkpoint."""
    return len(list(checkpoint.glob("rng_state_*.pth"))) or 1


def publish(save_path: Path, step: int, keep: int) -> Path:
    """Give a written checkpoint its name and drop the oldest ones beyond ``keep``."""
    written, final = save_path / PARTIAL / f"{PREFIX}{step}", save_path / f"{PREFIX}{step}"
    for file in (*written.rglob("*"), written):
        _flush(file)
    if final.exists():
        shutil.rmtree(final)
    os.replace(written, final)
    _flush(save_path)
    shutil.rmtree(save_path / PARTIAL)
    for folder in whole_checkpoints(save_path)[:-keep]:
        shutil.rmtree(folder)
    return final


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_partial(save_path: Path) -> None:
    """Remove what an interrupted save left."""
    shutil.rmtree(save_path / PARTIAL, ignore_errors=True)


@contextmanager
def explained(save_path: Path, what: str) -> Iterator[None]:
    """Turn any failure to write into one sentence that names the last good checkpoint."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not isinstance(error, OSError | SafetensorError) and not any(part in str(error) for part in TORCH_WRITES):
            raise
        clear_partial(save_path)
        good = newest_checkpoint(save_path)
        last = f"the last good checkpoint is {good}" if good else "there is no earlier checkpoint"
        free = shutil.disk_usage(save_path).free if save_path.is_dir() else 0
        why = f"{str(error).splitlines()[0]}; {free // 2**20} MiB are free"
        raise ClaraError(
            f"{what} could not be written to {save_path} ({why}); {last}: make room and go on with --load_checkpoint"
        ) from error

"""A run's folders, looked at before the first step: can they be written, are they free, do all machines see the same?

Every process reads checkpoints from ``save_path``, the first one writes them: several machines need a file system that
all of them share.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch.distributed as dist
from filelock import FileLock, Timeout

from clara_model.errors import ClaraError

PROBE = ".shared"
LOCK = ".lock"
"""Empty; a killed run leaves it, but the lock goes with its process, however that ends."""


def check_writable(folder: Path) -> None:
    """Make the folder and write a file into it.

    Raises:
        ClaraError: that cannot be done.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ClaraError(
            f"{folder} cannot be written to ({error.strerror}); give another --save_path or --ckpt_path"
        ) from error


@contextmanager
def alone_in(folders: Collection[Path]) -> Iterator[None]:
    """Inside the block no other run may write into these folders; the first process sees to that for all.

    Raises:
        ClaraError: another run is in one of them.
    """
    first = os.environ.get("RANK", "0") == "0"
    with ExitStack() as held:
        for folder in {folder.resolve() for folder in folders} if first else ():
            try:
                held.enter_context(FileLock(folder / LOCK, timeout=0))
            except Timeout:
                raise ClaraError(
                    f"another run is writing into {folder}; wait for it, stop it, or give another --save_path"
                ) from None
            if os.name == "posix":  # elsewhere it goes by itself
                held.callback((folder / LOCK).unlink, missing_ok=True)  # before the lock is given back
        yield


def check_shared(folder: Path) -> None:
    """See whether all processes of the run see the same folder; every process must call it.

    Raises:
        ClaraError: on every process, where one of them does not.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    first, name = dist.get_rank() == 0, [uuid.uuid4().hex]
    dist.broadcast_object_list(name, src=0)
    probe = folder / f"{PROBE}-{name[0]}"
    if first:
        probe.write_bytes(b"")
    dist.barrier()
    seen = [False] * dist.get_world_size()
    dist.all_gather_object(seen, probe.is_file())
    if first:
        probe.unlink()
    if not all(seen):
        blind = ", ".join(str(rank) for rank, sees in enumerate(seen) if not sees)
        raise ClaraError(
            f"{folder} is not one folder for all machines: processes {blind} do not see what the first one writes; "
            "give a --save_path (and --ckpt_path) on a file system that all machines share"
        )

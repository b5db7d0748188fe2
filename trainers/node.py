"""What the processes of one machine do once together: starting, asking the hub, unpacking a file."""

from __future__ import annotations

import atexit
import gzip
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from clara_model.errors import ClaraError


def process_count() -> int:
    """Processes of the run, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_here() -> bool:
    """Whether this is the first process of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def start(use_cpu: bool) -> None:
    """Start the process group of a run of several processes, so that they can wait for each other from the start on.

    Raises:
        ClaraError: DeepSpeed is not installed.
    """
    if process_count() == 1:
        return
    from trainers import deepspeed_utils

    deepspeed_utils.prepare(use_cpu)
    import deepspeed
    import torch

    if not use_cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    deepspeed.init_distributed(dist_backend="gloo" if use_cpu else "nccl", auto_mpi_discovery=False, verbose=False)


def stop() -> None:
    """Leave the process group together: a process that ends while another still holds its connections may abort."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def one_asks_the_hub() -> Iterator[None]:
    """Inside the block the first process of each machine asks the hub; the others follow it and read its cache."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        yield
    elif is_first_here():
        try:
            yield
        finally:
            dist.barrier()
    else:
        dist.barrier()
        with offline():
            yield


def from_the_cache() -> AbstractContextManager[None]:
    """Inside the block only the first process of each machine may ask the hub; what it has brought is there for all."""
    return nullcontext() if is_first_here() else offline()


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is asked of the hub inside the block: what it has is in the cache."""
    from huggingface_hub import constants

    places: list[Any] = [constants]
    try:
        import datasets

        places.append(datasets.config)
    except ImportError:
        pass
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def unpacked(path: Path) -> Path:
    """A gzipped file's contents as a file that all processes of this machine share; it goes when the first one ends.

    Raises:
        OSError: the file cannot be read, or there is no room for its contents.
    """
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    folder = Path(tempfile.gettempdir()) / f"clara-unpacked-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ClaraError(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own")
    target = folder / hashlib.sha256(key.encode()).hexdigest()[:24]
    with FileLock(target.with_suffix(".lock")):
        if not target.is_file():
            part = target.with_suffix(".part")
            with gzip.open(path) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file)
            os.replace(part, target)
    if is_first_here():
        atexit.register(target.unlink, missing_ok=True)
    return target

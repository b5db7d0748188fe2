"""What the processes of one machine do once together: starting, asking the hub, unpacking a file."""

from __future__ import annotations

import atexit
import gzip
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from accelerate import PartialState


def process_count() -> int:
    """Processes of the run, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the first process of the run, which speaks and writes for all."""
    return os.environ.get("RANK", "0") == "0"


def is_first_here() -> bool:
    """Whether this is the first process of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def start(use_cpu: bool) -> None:
    """Start the process group of a run of several processes, so that they can wait for each other from the start on."""
    if process_count() == 1:
        return
    from trainers import deepspeed_utils

    deepspeed_utils.prepare(use_cpu)
    import deepspeed
    import torch

    if not use_cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    deepspeed.init_distributed(dist_backend="gloo" if use_cpu else "nccl", auto_mpi_discovery=False, verbose=False)


def _group() -> Any:
    """`torch.distributed` where this process is connected with others; it is not imported for reading files."""
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None


def stop() -> None:
    """Leave the process group together: a process that ends while another still holds its connections may abort."""
    if dist := _group():
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def one_asks_the_hub() -> Iterator[None]:
    """Inside the block the first process of each machine asks the hub; the others follow it and read its cache."""
    dist = _group()
    if dist is None:
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
    Raises `OSError`: the file cannot be read, or there is no room for its contents.
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


PROBE = ".shared"
LOCK = ".lock"
"""Empty; a killed run leaves it, but the lock goes with its process, however that ends."""


def check_writable(folder: Path) -> None:
    """Make the folder and write a file into it. Raises `ClaraError`: that cannot be done."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        said = f"{folder} cannot be written to ({error.strerror})"
        raise ClaraError(f"{said}; give another --save_path or --ckpt_path") from error


@contextmanager
def alone_in(folders: Collection[Path]) -> Iterator[None]:
    """Inside the block no other run may write into these folders (a `ClaraError`); the first process sees to that."""
    with ExitStack() as held:
        for folder in {folder.resolve() for folder in folders} if is_first() else ():
            try:
                held.enter_context(FileLock(folder / LOCK, timeout=0))
            except Timeout:
                said = f"another run is writing into {folder}"
                raise ClaraError(f"{said}; wait for it, stop it, or give another --save_path") from None
            if os.name == "posix":  # elsewhere it goes by itself
                held.callback((folder / LOCK).unlink, missing_ok=True)  # before the lock is given back
        yield


def check_shared(folder: Path) -> None:
    """Refuse, on every process, a folder that they do not all see; every process must call it."""
    dist = _group()
    if dist is None:
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


def of_evaluation() -> PartialState:
    """This process among those of an evaluation, as the launcher has set them up."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())  # without a GPU it joins no group unless told to

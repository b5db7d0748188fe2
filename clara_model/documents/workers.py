"""Whole corpora by several models at once: a process for each device of a machine, or Ray actors on several machines.

All of them write into one store. A batch of documents goes to whichever is free. What is written is found by its
content, so that a batch which is done twice, after a process was killed or a machine lost, leaves what doing it once
leaves.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cached_property
from multiprocessing.queues import Queue
from typing import TYPE_CHECKING, Any

from clara_model.documents.corpus import Compress, Done, New, compress_documents
from clara_model.errors import ClaraError, needing
from clara_model.store.opening import is_shared

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from clara_model.store import DurableStore

WAITING = 2
"""Batches of each process that are read ahead."""
_RESTARTS = 10
"""Of one actor, before its loss ends the run."""


class Compressor:
    """A model and a store, opened in the process that uses them, at its first batch."""

    def __init__(
        self, model: str, store: str, options: Mapping[str, Any], device: str | None = None, threads: int | None = None
    ) -> None:
        """As `Clara.load` and `open_store` take them; ``threads`` of a process that shares the CPU."""
        self.model, self.store, self.options, self.threads = model, store, {**options, "device": device}, threads

    @cached_property
    def _opened(self) -> tuple[Clara, DurableStore]:
        import torch

        from clara_model.inference.clara import Clara
        from clara_model.store import open_store

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        store = open_store(self.store)
        return Clara.load(self.model, store=store, **self.options), store

    def __call__(self, batch: Sequence[New]) -> Done:
        """Compress some documents."""
        return compress_documents(*self._opened, batch)


def check_devices(words: str) -> list[str]:
    """``cuda:0,cuda:1`` or ``cpu,cpu``, or a number: so many GPUs, or processes on the CPU where there is none.

    Raises:
        ValueError: none of these, or more GPUs than there are.
    """
    import torch

    names = [word.strip() for word in words.split(",")]
    if not words.strip().isdigit():
        if not all(names):
            raise ValueError(f"--devices takes names like cuda:0,cuda:1 or cpu,cpu, or a number, got {words!r}")
        return names
    count, gpus = int(words), torch.cuda.device_count()
    if count < 1 or 0 < gpus < count:
        most = f" and at most {gpus}, the GPUs of this machine" if gpus else ""
        raise ValueError(f"--devices takes a number of at least 1{most}, or names such as cpu,cpu; got {words}")
    return [f"cuda:{number}" for number in range(count)] if gpus else ["cpu"] * count


def all_devices() -> list[str]:
    """All GPUs of this machine."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


@contextmanager
def processes(model: str, store: str, options: Mapping[str, Any], devices: Sequence[str]) -> Iterator[Compress]:
    """A process for each device, for the block's time.

    Raises:
        ClaraError: one of them was killed; what is done is in the store.
    """
    import torch

    context = multiprocessing.get_context("spawn")
    waiting: Queue[str] = context.Queue()
    for device in devices:
        waiting.put(device)
    threads = max(1, torch.get_num_threads() // len(devices)) if "cpu" in devices else None
    pool = ProcessPoolExecutor(len(devices), context, _start, (waiting, model, store, dict(options), threads))

    def compress(batches: Iterable[Sequence[New]]) -> Iterator[Done]:
        try:
            yield from _flowing(pool, batches, WAITING * len(devices))
        except BrokenProcessPool as error:
            raise ClaraError(
                f"a process on {', '.join(devices)} was killed (out of memory?); run the same command again, it goes "
                "on where it was"
            ) from error

    try:
        yield compress
    finally:
        pool.shutdown(cancel_futures=True)


def _flowing(pool: ProcessPoolExecutor, batches: Iterable[Sequence[New]], most: int) -> Iterator[Done]:
    """What the pool makes of the batches, as it comes; reads few ahead."""
    waiting: set[Future[Done]] = set()
    for batch in batches:
        waiting.add(pool.submit(_work, batch))
        if len(waiting) >= most:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for one in done:
                yield one.result()
    for one in as_completed(waiting):
        yield one.result()


_compressor: Compressor | None = None
"""Of this process."""


def _start(waiting: Queue[str], model: str, store: str, options: Mapping[str, Any], threads: int | None) -> None:
    global _compressor
    device = waiting.get()
    _compressor = Compressor(model, store, options, device, threads if device == "cpu" else None)


def _work(batch: Sequence[New]) -> Done:
    assert _compressor is not None
    return _compressor(batch)


def check_actors(words: str | None) -> int | None:
    """How many actors ``--devices`` asks for; None where it was not given.

    Raises:
        ValueError: not a number of at least 1: which devices they take is Ray's to say.
    """
    if words is None:
        return None
    if not words.strip().isdecimal() or int(words) < 1:
        raise ValueError(f"with --engine ray, --devices takes how many actors, 1 or more, got {words!r}")
    return int(words)


@contextmanager
def actors(model: str, store: str, options: Mapping[str, Any], count: int | None = None) -> Iterator[Compress]:
    """Actors on the cluster for the block's time, each with a GPU of its own, or with a CPU where there is none.

    Args:
        model: name of the checkpoint; a folder must be there on every machine.
        store: its path or URL, which every machine must see.
        options: of `Clara.load`.
        count: how many (default: all GPUs of the cluster, or all CPUs where it has none).

    Raises:
        ClaraError: Ray is not installed or does not start, the cluster is too small, or several machines cannot share
            the store.
    """
    with needing("--engine ray", "ray", "ray"):
        import ray
    with _cluster(ray):
        made = _made(ray, model, store, options, count)
        try:
            yield lambda batches: _dealt(ray, made, batches)
        finally:
            for actor in made:
                ray.kill(actor)


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """The one that this process is connected to, or a connection for the block's time."""
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(log_to_driver=False, logging_level="warning")
        yield
    finally:
        if ours:
            ray.shutdown()


def _made(ray: Any, model: str, store: str, options: Mapping[str, Any], count: int | None) -> list[Any]:
    machines = sum(1 for node in ray.nodes() if node["Alive"])
    if machines > 1 and not is_shared(store):
        raise ClaraError(
            f"the cluster has {machines} machines, which cannot share {store}; use a folder that they all see with a "
            "name that ends in .lance, or object storage such as s3://"
        )
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    room, what = (gpus, "GPUs") if gpus else (cpus, "CPUs")
    if (count or 1) > room:
        raise ClaraError(f"--devices {count or 1} is more than the {room} {what} of the cluster")
    device, threads = ("cuda:0", None) if gpus else ("cpu", 1)  # Ray shows an actor its own GPU alone
    remote = ray.remote(num_cpus=0 if gpus else 1, num_gpus=1 if gpus else 0)(Compressor)
    lasting = remote.options(max_restarts=_RESTARTS, max_task_retries=_RESTARTS)
    return [lasting.remote(model, store, dict(options), device, threads) for _ in range(count or room)]


def _dealt(ray: Any, made: Sequence[Any], batches: Iterable[Sequence[New]]) -> Iterator[Done]:
    """What the actors make of the batches, as it comes; reads few ahead."""
    from ray.util import ActorPool

    pool = ActorPool([*made] * WAITING)
    try:
        for batch in batches:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda actor, some: actor.__call__.remote(some), batch)
        while pool.has_next():
            yield pool.get_next_unordered()
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
        raise ClaraError(f"an actor failed: {' '.join(str(cause).split())[-500:]}") from error
    except ray.exceptions.RayError as error:
        raise ClaraError(
            f"actors were lost {_RESTARTS} times ({type(error).__name__}: out of memory?); run the same command again, "
            "it goes on where it was"
        ) from error

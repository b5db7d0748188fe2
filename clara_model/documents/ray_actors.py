"""Whole corpora on several machines: Ray actors with a model each, all of them writing into one shared store.

This process reads the documents and deals batches to whichever actor is free; text is small beside what compressing it
takes. An actor that is lost with its machine is started anew elsewhere and given its batch again: what is written is
found by its content, so doing a batch twice leaves what doing it once leaves. Without a cluster (``ray start``), Ray
starts on this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from clara_model.documents.corpus import Compress, Done, New
from clara_model.documents.device_processes import WAITING, Compressor
from clara_model.errors import ClaraError, needing
from clara_model.store.opening import is_shared

_RESTARTS = 10
"""Of one actor, before its loss ends the run."""


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
            yield lambda batches: _flowing(ray, made, batches)
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


def _flowing(ray: Any, made: Sequence[Any], batches: Iterable[Sequence[New]]) -> Iterator[Done]:
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

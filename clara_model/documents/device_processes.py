"""Whole corpora on several devices: a process with its own model each, all of them writing into one store.

A batch of documents goes to whichever process is free. What a process writes is found by its content, so a batch that
is done twice after a kill leaves what doing it once leaves.
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
from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from clara_model.store import DurableStore

WAITING = 2
"""Batches of each process that are read ahead."""


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

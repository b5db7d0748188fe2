"""Which texts go through the model together: batches of like length under a token budget, smaller when memory runs out.

Leaves out what a batch computes: that is the caller's loop.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from clara_model.errors import ClaraError

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory"),  # CUDA, MPS; the CPU's allocator
    *("cublas_status_alloc_failed", "cudnn_status_alloc_failed", "cusolver_status_alloc_failed"),
)


def plan_batches(lengths: Sequence[int], max_tokens: int, max_items: int | None = None) -> list[list[int]]:
    """Group items of like length, so that little is padded.

    Args:
        lengths: tokens of each item.
        max_tokens: of one batch, padding included; an item longer than that is a batch of its own.
        max_items: of one batch; no bound by default.

    Returns:
        batches of indices, longest first, so that a budget that is too large shows at once.
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = max(1, max_tokens // max(1, width))
        if batches and len(batches[-1]) < min(room, max_items or room):
            batches[-1].append(index)
        else:
            batches.append([index])
            width = lengths[index]
    return batches


class Batches:
    """Batches one after the other, smaller once the device has run out of memory.

    ``for batch in batches: try: run(batch) except (RuntimeError, MemoryError) as error: batches.retry(batch, error)``
    """

    def __init__(self, planned: Sequence[list[int]], what: str) -> None:
        """``planned`` is from `plan_batches`; ``what`` is what an item is, for the error."""
        self._pending = deque(planned)
        self._limit = max(map(len, planned), default=1)
        self._what = what
        self._failed = False

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of indices, none larger than what has fitted; lasts until none has failed."""
        while self._pending:
            if self._failed:  # here the error is gone, and with it the tensors that its frames held
                release_memory()
                self._failed = False
            batch = self._pending.popleft()
            if len(batch) > self._limit:
                self._pending.appendleft(batch[self._limit :])
                batch = batch[: self._limit]
            yield batch

    def retry(self, batch: list[int], error: BaseException) -> None:
        """Have a batch that ran out of memory again, in halves.

        Raises:
            ClaraError: there is not enough memory for one item.
            BaseException: the error itself, where it is another one.
        """
        if not is_out_of_memory(error):
            raise error
        if len(batch) == 1:
            raise ClaraError(
                f"not enough memory for one {self._what} ({str(error).splitlines()[0]}); free memory on the device, "
                "or load the model with a smaller dtype or with quantization"
            ) from error
        self._limit = (len(batch) + 1) // 2
        self._failed = True
        self._pending.appendleft(batch)
        logger.warning("out of memory with %d %ss at a time; going on with %d", len(batch), self._what, self._limit)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, one of its libraries, or the CPU's allocator has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in message for sign in _OUT_OF_MEMORY)


def release_memory() -> None:
    """Give memory that nothing uses any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()

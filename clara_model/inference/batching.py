"""Which texts go through the model together: batches of like length under a token budget, smaller if memory ends.

Leaves out what a batch computes: that is the caller's function.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Sequence

import torch

from clara_model.errors import ClaraError

logger = logging.getLogger(__name__)


def plan_batches(lengths: Sequence[int], max_tokens: int, max_items: int | None = None) -> list[list[int]]:
    """Group items of like length, so that little is padded.

    Args:
        lengths: tokens of each item.
        max_tokens: of one batch, padding included; an item longer than that is a batch of its own.
        max_items: of one batch, no bound where not given.

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


def run_batches(batches: Sequence[Sequence[int]], run: Callable[[Sequence[int]], None], what: str) -> None:
    """Run every batch; when the device is out of memory, go on with batches half as large, down to one item.

    Args:
        batches: as `plan_batches` made them.
        run: called with the indices of one batch; called again for parts of it if it ran out of memory.
        what: what an item is, for the error.

    Raises:
        ClaraError: there is not enough memory for one item.
    """
    pending = deque(batches)
    limit = max(map(len, batches), default=1)
    while pending:
        batch = pending.popleft()
        if len(batch) > limit:
            pending.extendleft([batch[limit:], batch[:limit]])
            continue
        try:
            run(batch)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise ClaraError(
                    f"not enough memory for one {what} ({str(error).splitlines()[0]}); free memory on the device, "
                    "or load the model with a smaller dtype or with quantization"
                ) from error
        limit = (len(batch) + 1) // 2  # the error is gone here, and with it the tensors that its frames held
        logger.warning("out of memory with %d %ss at a time; going on with %d", len(batch), what, limit)
        pending.appendleft(batch)
        release_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the processor's allocator, has no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def release_memory() -> None:
    """Give memory that nothing uses any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

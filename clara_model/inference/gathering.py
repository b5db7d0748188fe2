"""One generating batch for the callers that wait for the model together.

Nobody waits for company: a caller that gets the model takes along what others are waiting with, so one question alone
costs what it did, and sixty-four at a time share passes whose cost is reading the weights once. Only greedy answers
that are not streamed are gathered. Leaves out the model's lock (`inference.engine`) and the passes
(`inference.pipeline`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clara_model.inference.pipeline import Written
from clara_model.modeling.model import RoleModel
from clara_model.validation import Generation


@dataclass(eq=False)
class Job:
    """What one caller waits with, and later what was written for it."""

    prompts: Sequence[list[int]]
    blocks: Sequence[Tensor] | None
    """For each prompt its latents; None: the base model alone."""
    how: Generation
    written: list[Written] | None = None
    seconds: float = 0.0
    """Of the pass that wrote it."""
    alone: bool = False
    """Whether the batch that it was in has failed, so that its own thread runs it by itself."""

    def positions(self) -> int:
        """Of the longest prompt, new tokens included."""
        return max(map(len, self.prompts)) + self.how.max_new_tokens

    def fits(self, other: Job) -> bool:
        """Whether both can be generated in one call."""
        return self.how == other.how and (self.blocks is None) == (other.blocks is None) and not other.alone


class Gathering:
    """The jobs that wait for one model."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._lock = threading.Lock()
        self._waiting: list[Job] = []

    def wait(self, job: Job) -> None:
        """Add a job; its caller asks for the model's lock next."""
        with self._lock:
            self._waiting.append(job)

    def take(self, job: Job, max_tokens: int, max_items: int | None) -> list[Job]:
        """The job and those that can be run with it, which wait no more; none where it is done already.

        Args:
            job: of the caller that holds the model.
            max_tokens: positions in one batch, padding included.
            max_items: prompts in one batch.
        """
        with self._lock:
            if job not in self._waiting:
                return []
            group, count, width = [job], len(job.prompts), job.positions()
            for other in self._waiting if not job.alone else ():
                if other is job or not job.fits(other):
                    continue
                wider, more = max(width, other.positions()), count + len(other.prompts)
                if wider * more <= max_tokens and more <= (max_items or more):
                    group.append(other)
                    count, width = more, wider
            self._waiting = [other for other in self._waiting if other not in group]
            return group

    def give_back(self, jobs: Sequence[Job]) -> None:
        """A batch failed: each of its jobs is run by its own thread, and fails there if it must."""
        with self._lock:
            for job in jobs:
                job.alone = True
            self._waiting[:0] = jobs

    def leave(self, job: Job) -> None:
        """The caller has its answers, or is interrupted."""
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)


def may_gather(model: RoleModel, how: Generation) -> bool:
    """Whether an answer may share a batch with other callers' answers.

    On a CPU in half precision rounding depends on the batch, and an answer must not depend on who else is asking; on a
    GPU it does in any case (kernels choose their order of summation by shape).
    """
    exact = model.device.type != "cpu" or model.base.dtype in (torch.float32, torch.float64)
    return exact and not how.sampling.get("do_sample")

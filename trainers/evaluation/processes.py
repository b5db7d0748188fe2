"""Which part of the questions this process takes, under ``accelerate launch`` or ``torchrun``; alone, all of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass
class Processes:
    """This process among those of the evaluation."""

    index: int = 0
    count: int = 1
    device: str | None = None
    """Where it computes, if the launcher gives each process a device of its own."""
    _state: Any = None

    @classmethod
    def here(cls) -> Processes:
        """As the launcher has set them up."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())  # without a GPU it joins no group unless told to
        device = None if state.device.type == "cpu" else str(state.device)
        return cls(state.process_index, state.num_processes, device, state)

    @property
    def first(self) -> bool:
        """Whether it writes what all have made."""
        return self.index == 0

    def wait(self) -> None:
        """For all the others to come here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def end(self) -> None:
        """Leave the group of processes."""
        if self._state is not None:
            self._state.destroy_process_group()

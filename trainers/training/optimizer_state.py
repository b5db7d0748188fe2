"""The optimizer's state by the names of what trains, whole, however many processes share it.

One file, ``optimizer.pt``, is written and read by any number of processes at any ZeRO stage: DeepSpeed's own
checkpoints resume on the same number only. What trains at 7B is 84 million numbers, so gathering them is cheap.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clara_model.errors import ClaraError

NAME = "optimizer.pt"
FLAT = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
"""Where DeepSpeed's optimizers (ZeRO 3; 1 and 2; bfloat16 without ZeRO) keep the parts that this process owns."""


class OptimizerState:
    """Gathers and sets the state of one optimizer, plain or DeepSpeed's."""

    def __init__(self, optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        """Every process makes one, of what trains by name, and takes part in every call."""
        self.parameters, self.zero = dict(parameters), None
        while True:  # through Accelerate's wrapper and DeepSpeed's to PyTorch's
            if self.zero is None and any(hasattr(optimizer, name) for name in FLAT):
                self.zero = optimizer
            if getattr(optimizer, "optimizer", None) is None:
                break
            optimizer = optimizer.optimizer
        self.plain: torch.optim.Optimizer = optimizer

    def gathered(self) -> dict[str, Any]:
        """By name tensors of the parameter's shape, counters, a float32 weight and the groups' rates."""
        state = {name: self._of(parameter) for name, parameter in self.parameters.items()}
        return {"state": state, "rates": [group["lr"] for group in self.plain.param_groups]}

    def _of(self, parameter: nn.Parameter) -> dict[str, Any]:
        if not _is_split(parameter):
            return {key: _kept(value) for key, value in self.plain.state.get(parameter, {}).items()}
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        flat, shared = next(iter(self._flat_states()))
        found = {}
        for key, value in shared.items():
            flatted = isinstance(value, Tensor) and value.shape == flat.shape
            found[key] = _kept(safe_get_full_optimizer_state(parameter, key) if flatted else value)
        if parameter.dtype != torch.float32:
            found["weight"] = _kept(safe_get_full_fp32_param(parameter))
        return found

    def _flat_states(self) -> list[tuple[Tensor, dict[str, Any]]]:
        parts = next(getattr(self.zero, name) for name in FLAT if hasattr(self.zero, name))
        return [(part, self.plain.state[part]) for part in parts]

    def set(self, values: Mapping[str, Any]) -> None:
        """Put a gathered state in, split as this run splits it; exact where it is split as before."""
        state, rates = values["state"], values["rates"]
        if missing := sorted(set(self.parameters) - set(state)):
            raise ClaraError(f"the checkpoint's optimizer state lacks {missing[0]}; was it written by another stage?")
        for group, rate in zip(self.plain.param_groups, rates, strict=True):
            group["lr"] = rate
        if any(_is_split(parameter) for parameter in self.parameters.values()):
            self._make_room(state)
        for name, parameter in self.parameters.items():
            self._set(parameter, state[name])

    def _make_room(self, state: Mapping[str, dict[str, Any]]) -> None:
        """Flat states of zeros: DeepSpeed makes them in its first step only."""
        example = state[next(iter(self.parameters))]
        shape = next(iter(self.parameters.values()))
        numel = getattr(shape, "ds_numel", shape.numel())
        shaped = [key for key, value in example.items() if isinstance(value, Tensor) and value.numel() == numel]
        for flat, found in self._flat_states():
            for key, value in example.items():
                if key != "weight":
                    found[key] = torch.zeros_like(flat) if key in shaped else _moved(value)
        link = getattr(self.zero, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:  # ZeRO 1 and 2 find a parameter's part through this link, made in the first step otherwise
            link()

    def _set(self, parameter: nn.Parameter, values: Mapping[str, Any]) -> None:
        if not _is_split(parameter):
            self.plain.state[parameter] = {key: _moved(v, parameter) for key, v in values.items() if key != "weight"}
            return
        for key, value in values.items():
            if isinstance(value, Tensor) and value.dim():
                _set_split(parameter, value, None if key == "weight" else key)


def scale_rates(optimizer: Any, scheduler: Any, ratio: float) -> None:
    """Go on at another rate: the schedule keeps its shape, its values are multiplied."""
    for group in optimizer.param_groups:
        group["lr"] *= ratio
        group["initial_lr"] *= ratio
    scheduler.base_lrs = [rate * ratio for rate in scheduler.base_lrs]
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]  # what is logged


def read(folder: Path) -> dict[str, Any]:
    """A gathered state, as a checkpoint holds it under `NAME`. Raises `ClaraError`: the file is missing or damaged."""
    values = load(folder / NAME)
    if not isinstance(values, dict) or not {"state", "rates"} <= set(values):
        raise ClaraError(f"{folder / NAME} holds no optimizer state of this project; use the version that wrote it")
    return values


def load(path: Path) -> Any:
    """A file of a checkpoint that `torch.save` wrote. Raises `ClaraError`: it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        then = f"remove {path.parent} to go on from the checkpoint before it"
        raise ClaraError(f"{path} cannot be read ({first}); {then}") from error


def _is_split(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed keeps the parameter's state in flat parts."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _set_split(parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
    """A whole tensor into the parts that the processes own; ZeRO 3 pads the last part, so each takes its own."""
    from deepspeed import utils

    where = "full"
    if hasattr(parameter, "ds_tensor"):
        where, size, rank = "local", parameter.ds_tensor.numel(), torch.distributed.get_rank()
        flat = torch.zeros(size * torch.distributed.get_world_size(), dtype=value.dtype)
        flat[: value.numel()] = value.flatten()
        value = flat[rank * size : (rank + 1) * size]
    what, named = ("fp32_param", ()) if key is None else ("optimizer_state", (key,))
    getattr(utils, f"safe_set_{where}_{what}")(parameter, value.to(parameter.device), *named)


def _kept(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _moved(value: Any, like: Tensor | None = None) -> Any:
    """A copy, on the parameter's device where it has its shape (counters stay on the CPU, as PyTorch keeps them)."""
    if not isinstance(value, Tensor):
        return value
    return value.clone().to(like.device) if like is not None and value.dim() else value.clone()

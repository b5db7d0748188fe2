"""The generator's adapter added to the base's weights, in a copy of their own, for decoding in half precision.

Decoding reads every weight for every token, and three idle adapters' small products cost a third of its time where
weights are half as long; in float32 they cost a seventh, and the copy twice the bytes. On a GPU it is the starting of
their kernels that costs as much. So a copy is kept in half precision alone, of at most `MERGED_BYTES`, on a GPU of at
most half of its free memory (a 7B base needs 13 GB), and made again when a weight has changed. The base's own weights
stay as they are, to the bit: latents are made with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from clara_model.modeling.adapters import RoleLinear, Roles
from clara_model.modeling.identity import Place, Watch

MERGED_BYTES = 1 << 30
"""The largest copy that is kept, where a GPU has no more to spare."""


def most_bytes(devices: set[torch.device]) -> int:
    """How large a copy may be, given where the weights are."""
    (device, *more) = devices
    if more or device.type != "cuda":
        return MERGED_BYTES
    return max(MERGED_BYTES, torch.cuda.mem_get_info(device)[0] // 2)


class Merged:
    """Merged weights of one role of a model."""

    def __init__(self, roles: Roles, role: str) -> None:
        """Nothing is merged before it is asked for."""
        self._roles, self._role = roles, role
        self._watch: Watch | None = None
        self._weights: dict[str, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a model merges for itself."""
        return {"_roles": self._roles, "_role": self._role}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_roles"], state["_role"])  # type: ignore[misc]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Passes inside the block take the merged weights, where they are worth a copy."""
        layers = self._layers()
        if not layers:
            self._watch, self._weights = None, {}
        elif self._watch is None or not self._watch.unchanged():
            self._weights = {}  # before the new ones are made
            self._watch, self._weights = Watch(self._places(layers)), self._made(layers)
        try:
            for name, layer in layers.items():
                layer.merged_weight = self._weights[name]
            yield
        finally:
            for layer in layers.values():
                layer.merged_weight = None

    def _layers(self) -> dict[str, RoleLinear]:
        """The layers that are merged: all, or none."""
        found = {name: layer for name, layer in self._roles.layers().items() if isinstance(layer, RoleLinear)}
        types = {tensor.dtype for layer in found.values() for tensor in self._parts(layer)}
        half = len(types) == 1 and next(iter(types)).itemsize == 2
        size = sum(self._parts(layer)[0].nbytes for layer in found.values())
        if not half or any(layer.training for layer in found.values()):
            return {}
        devices = {self._parts(layer)[0].device for layer in found.values()}
        return found if self._weights or size <= most_bytes(devices) else {}

    def _parts(self, layer: RoleLinear) -> tuple[Tensor, Tensor, Tensor]:
        """``W``, ``A`` and ``B``."""
        modules = layer.base_layer, layer.lora_A[self._role], layer.lora_B[self._role]
        return cast(tuple[Tensor, Tensor, Tensor], tuple(module.weight for module in modules))

    def _places(self, layers: dict[str, RoleLinear]) -> list[Place]:
        modules = [
            module
            for layer in layers.values()
            for module in (layer.base_layer, layer.lora_A[self._role], layer.lora_B[self._role])
        ]
        return [(module._parameters, "weight") for module in modules]

    @torch.no_grad()
    def _made(self, layers: dict[str, RoleLinear]) -> dict[str, Tensor]:
        """``W + scale * B A``, summed in float32."""
        found = {}
        for name, layer in layers.items():
            weight, down, up = self._parts(layer)
            total = torch.addmm(weight.float(), up.float(), down.float(), alpha=layer.scaling[self._role])
            found[name] = total.to(weight.dtype)
        return found

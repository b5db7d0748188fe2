"""The generator's adapter added to the base's weights, in a copy of their own, for decoding.

Three idle adapters' small products cost a third of a token's time where weights are half as long; on a GPU it is the
starting of their kernels that costs as much. So a copy is kept, of at most `MERGED_BYTES`, on a GPU of at most half of
its free memory (a 7B base needs 13 GB), and made again when a weight has changed. On a CPU `modeling.decoder` generates
with it where it can stand for the base; elsewhere the base's own layers do, and in float32, where that gains a seventh,
there is no copy. The base's own weights stay as they are, to the bit: latents are made with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from clara_model.checkpoint.devices import default_dtype
from clara_model.modeling.adapters import RoleLinear, Roles
from clara_model.modeling.decoder import FUSED, PlainDecoder, Product, fits
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

    def __init__(self, roles: Roles, role: str, quick: bool = False) -> None:
        """Nothing is merged before it is asked for; ``quick`` as for `PlainDecoder`."""
        self._roles, self._role, self.quick = roles, role, quick
        self._state: tuple[Any, ...] = ()
        self._watch: Watch | None = None
        self._products: dict[str, Product] = {}
        self._decoder: PlainDecoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a model merges for itself."""
        return {"_roles": self._roles, "_role": self._role, "quick": self.quick}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_roles"], state["_role"], state["quick"])  # type: ignore[misc]

    @contextmanager
    def in_use(self) -> Iterator[dict[str, Any]]:
        """The base takes the merged weights inside the block, where they are worth a copy.

        Yields:
            what the base's ``generate`` is to be given beside its other arguments.
        """
        base, layers = self._roles.base, self._layers()
        plain = len(layers) == sum(map(len, FUSED)) * base.config.num_hidden_layers and fits(base)
        training = any(layer.training for layer in layers.values()) or torch.is_autocast_enabled(base.device.type)
        state = plain, training, self.quick, base.dtype, base.device
        if state != self._state or (self._watch is not None and not self._watch.unchanged()):
            self._products, self._decoder, self._watch, self._state = {}, None, None, state
            if not training and self._worth_it(layers, plain):
                self._watch = Watch(self._places(layers, plain))
                self._make(layers, plain)
        try:
            if self._decoder is not None:
                base.__dict__["forward"] = self._decoder.forward
                yield {"past_key_values": self._decoder.cache()}
            else:
                for name, product in self._products.items():
                    layers[name].merged_weight = product.weight
                yield {}
        finally:
            base.__dict__.pop("forward", None)
            for layer in layers.values():
                layer.__dict__.pop("merged_weight", None)  # as it was: a graph is recorded for what is there

    def _layers(self) -> dict[str, RoleLinear]:
        return {name: layer for name, layer in self._roles.layers().items() if isinstance(layer, RoleLinear)}

    def _worth_it(self, layers: dict[str, RoleLinear], plain: bool) -> bool:
        """Whether a copy gains something, and has room."""
        parts = [self._parts(layer) for layer in layers.values()]
        types = {tensor.dtype for part in parts for tensor in part}
        if len(types) != 1 or not (plain or next(iter(types)).itemsize == 2):
            return False
        return sum(part[0].nbytes for part in parts) <= most_bytes({part[0].device for part in parts})

    def _parts(self, layer: RoleLinear) -> tuple[Tensor, Tensor, Tensor]:
        """``W``, ``A`` and ``B``."""
        modules = layer.base_layer, layer.lora_A[self._role], layer.lora_B[self._role]
        return cast(tuple[Tensor, Tensor, Tensor], tuple(module.weight for module in modules))

    def _places(self, layers: dict[str, RoleLinear], plain: bool) -> list[Place]:
        """Where the weights lie that are copied: the layers', and with the plain decoder norms and output matrix."""
        parts = [(one.base_layer, one.lora_A[self._role], one.lora_B[self._role]) for one in layers.values()]
        modules = [module for part in parts for module in part]
        if plain:
            modules += [one for name, one in self._roles.base.named_modules() if name.endswith(("norm", "lm_head"))]
        return [(module._parameters, "weight") for module in modules]

    @torch.no_grad()
    def _make(self, layers: dict[str, RoleLinear], plain: bool) -> None:
        """``W + scale * B A`` of each layer, summed in float32."""
        base = self._roles.base

        def merged(layer: RoleLinear) -> Tensor:
            weight, down, up = self._parts(layer)
            return torch.addmm(weight.float(), up.float(), down.float(), alpha=layer.scaling[self._role])

        dtype = base.dtype
        if not plain:
            self._products = {name: Product(merged(layer), dtype, own=False) for name, layer in layers.items()}
            return
        if self.quick and dtype == torch.float32:
            dtype = default_dtype(base.device)
        for number, block in enumerate(base.get_decoder().layers):
            for group in FUSED:
                parts = [getattr(block.self_attn, name, None) or getattr(block.mlp, name) for name in group]
                weight = torch.cat([merged(part) for part in parts])
                self._products[f"{number}.{group[0]}"] = Product(weight, dtype, self.quick)
        head = Product(base.get_output_embeddings().weight, dtype, self.quick, own=False)
        self._decoder = PlainDecoder(base, self._products, head, self.quick)

"""The roles: one frozen base, one LoRA adapter for each role, and the switch that says which one a pass runs as.

PEFT's ``set_adapter`` walks all layers and turns gradients on and off as it goes, so it cannot switch roles inside one
training step. Here all LoRA layers read one shared list that holds the active role; switching writes one element.
Gradient checkpointing runs a layer again in the backward pass, when another role may be active, so the role of the
first run is captured and restored for the second (see `Roles.checkpoint_contexts`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from clara_model.checkpoint.config import FUSED_TARGETS, LORA_TARGETS, ClaraConfig
from clara_model.checkpoint.contents import fresh
from clara_model.errors import ClaraError

BASE = "base"
"""The base model alone, no adapter."""


class RoleLinear(Linear):
    """PEFT's LoRA layer with fewer passes over its input and its result.

    The adapter's product is added in place: PEFT makes three more tensors of the result's size (product, scaled
    product, sum); where hidden sizes are small that is a fifth of an encoder pass. In training under autocast the input
    stays as it is: PEFT casts it to the adapter's float32, and autocast back. Never built: `Roles.add` makes PEFT's
    layers into this class.
    """

    merged_weight: Tensor | None = None
    """The weight with an adapter's product added, while passes take it (`modeling.merged`)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``W x + scale * B A x`` as the active role; as PEFT computes it where this class's way does not apply."""
        if self.merged_weight is not None:
            return functional.linear(x, self.merged_weight, cast(Tensor | None, self.base_layer.bias))
        role = self._active_adapter[0]
        if (torch.is_grad_enabled() or self.training) and role in self.lora_A and not args and not kwargs:
            return self._in_training(x, role)
        if torch.is_grad_enabled() or self.training or args or kwargs:
            return super().forward(x, *args, **kwargs)
        if role not in self.lora_A:
            return self.base_layer(x)
        up = self.lora_B[role].weight
        if not x.dtype == self.base_layer.weight.dtype == up.dtype or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        if hasattr(up, "ds_id"):  # DeepSpeed ZeRO 3 gathers weights for module calls only
            return super().forward(x)
        result = self.base_layer(x)
        low = self.lora_A[role](x).flatten(0, -2)
        result.view(-1, result.shape[-1]).addmm_(low, up.T, alpha=self.scaling[role])
        return result

    def _in_training(self, x: Tensor, role: str) -> Tensor:
        """PEFT's sum, added where the product is made; under autocast, without PEFT's casts."""
        rows = x.flatten(0, -2)
        result = self.base_layer(rows)
        if not torch.is_autocast_enabled(x.device.type):
            rows = rows.to(cast(Tensor, self.lora_A[role].weight).dtype)
        scale, dropout = self.scaling[role], self.lora_dropout[role]
        if x.device.type == "cpu" and isinstance(dropout, nn.Dropout) and dropout.training:
            rows, left = without_some(rows, dropout.p)
            scale = scale / left
        else:
            rows = dropout(rows)
        low, up = self.lora_A[role](rows), self.lora_B[role].weight
        if low.dtype == result.dtype and not hasattr(up, "ds_id"):  # else ZeRO 3, or a base of another dtype
            result = result.addmm_(low, up.T.to(low.dtype), alpha=scale)
        else:
            result = (result + self.lora_B[role](low * scale)).to(result.dtype)
        return result.view(*x.shape[:-1], -1)


def without_some(x: Tensor, rate: float) -> tuple[Tensor, float]:
    """Dropout for the CPU, in a third of PyTorch's time: one random word for four elements, not for each.

    The rate is one of 65,536; what is kept is not scaled.

    Args:
        x: of any shape.
        rate: share that is dropped, 0 to 1.

    Returns:
        ``x`` with zeros in it, and the share that is kept, to divide by.
    """
    dropped = min(round(rate * 2**16), 2**16 - 1)
    words = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 4),), dtype=torch.int64, device=x.device)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
    return x * kept, 1 - dropped / 2**16


class Roles:
    """Adds the LoRA adapters of ``config.roles`` to a base model and switches between them.

    Not thread-safe: one pass at a time per model (`Clara` holds a lock).
    """

    def __init__(self, base: PreTrainedModel, config: ClaraConfig) -> None:
        """Inject one freshly initialised adapter for each role; the base's own weights are frozen."""
        self._lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=list(config.lora_targets),
        )
        self.names: tuple[str, ...] = ()
        self._layers: dict[str, LoraLayer] = {}
        self._active = [BASE]
        self._base = [base]  # in a list, so that this object is no parent of the base
        base.requires_grad_(False)
        _check_targets(base, config.lora_targets)
        for role in config.roles:
            self.add(role)

    def add(self, role: str) -> None:
        """Inject a freshly initialised adapter (its output is zero) for one more role.

        Raises:
            ClaraError: the role is there already.
        """
        if role in self.names:
            raise ClaraError(f"this checkpoint already has a {role.replace('_', ' ')}")
        if self.names:
            for layer in self._layers.values():
                _add_like(layer, self.names[0], role)
        else:
            self._inject(role)
        self.names = (*self.names, role)
        self.parameters_require_grad(())

    def _inject(self, role: str) -> None:
        """Have PEFT put in the layers, which takes it a tenth of a millisecond for each module of the base."""
        inject_adapter_in_model(self._lora, self.base, adapter_name=role)
        self._layers = {name: module for name, module in self.base.named_modules() if isinstance(module, LoraLayer)}
        for layer in self._layers.values():
            layer._active_adapter = self._active
            if type(layer) is Linear:  # not the quantized kinds
                layer.__class__ = RoleLinear

    def layers(self) -> dict[str, LoraLayer]:
        """Every layer with LoRA, by its module name in the base."""
        return self._layers

    @property
    def base(self) -> PreTrainedModel:
        """The base model with the adapters in it."""
        return self._base[0]

    @property
    def active(self) -> str:
        """The role that a pass started now runs as."""
        return self._active[0]

    @contextmanager
    def acting_as(self, role: str) -> Iterator[None]:
        """Run passes inside the block as ``role`` (or `BASE`); the role before comes back afterwards."""
        if role != BASE and role not in self.names:
            raise ClaraError(f"this checkpoint has no {role.replace('_', ' ')}; it has {', '.join(self.names)}")
        before = self._active[0]
        self._active[0] = role
        try:
            yield
        finally:
            self._active[0] = before

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """``context_fn`` for `torch.utils.checkpoint`: nothing for the first run, this run's role for the second."""
        return nullcontext(), self.acting_as(self.active)

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        """LoRA weights of one role by their published keys, e.g. ``model.layers.0.self_attn.q_proj.lora_A.weight``."""
        found: dict[str, nn.Parameter] = {}
        for name, layer in self.layers().items():
            for side, matrices in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
                found[f"{name}.{side}.weight"] = cast(nn.Parameter, matrices[role].weight)
        return found

    def parameters_require_grad(self, roles: tuple[str, ...]) -> None:
        """Let exactly these roles' LoRA weights train."""
        for role in self.names:
            for parameter in self.parameters(role).values():
                parameter.requires_grad_(role in roles)

    @torch.no_grad()
    def load(self, role: str, tensors: dict[str, Tensor], source: str) -> None:
        """Copy one role's LoRA weights in; without any the role starts afresh, always with the same numbers.

        Raises:
            ClaraError: a tensor is missing, left over, or of the wrong shape.
        """
        parameters = self.parameters(role)
        tensors = tensors or fresh(parameters)
        missing, extra = sorted(set(parameters) - set(tensors)), sorted(set(tensors) - set(parameters))
        if missing or extra:
            what = f"lacks {missing[0]!r}" if missing else f"has {extra[0]!r}, which the base model has no place for"
            raise ClaraError(f"the {role.replace('_', ' ')} adapter in {source} {what}; does the base model match?")
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise ClaraError(
                    f"{role.replace('_', ' ')} weight {name} in {source} has shape {tuple(tensors[name].shape)}, "
                    f"the base model needs {tuple(parameter.shape)}; does the base model match?"
                )
            parameter.copy_(tensors[name])

    def adds_nothing(self, role: str) -> bool:
        """Whether a role's output is zero, as that of an adapter that was never trained."""
        return not any(bool(weight.any()) for name, weight in self.parameters(role).items() if ".lora_B." in name)

    @torch.no_grad()
    def copy(self, source: str, target: str) -> None:
        """Make ``target``'s weights equal to ``source``'s (stage 3 starts the query reasoner from the compressor)."""
        weights = self.parameters(source)
        for name, parameter in self.parameters(target).items():
            parameter.copy_(weights[name])

    def reset(self, role: str) -> None:
        """Initialise one role's weights anew, as when it was added (stage 2 starts a fresh generator)."""
        for layer in self.layers().values():
            layer.reset_lora_parameters(role, init_lora_weights=True)


def _add_like(layer: LoraLayer, first: str, role: str) -> None:
    """Give a layer one more freshly initialised adapter, by all that it holds for its first one."""
    for held in (*vars(layer).values(), *cast(nn.Module, layer).children()):
        if isinstance(held, dict | nn.ModuleDict) and first in held:
            held[role] = _another(held[first])
    layer.reset_lora_parameters(role, init_lora_weights=True)


def _another(value: Any) -> Any:
    """A copy of what a layer holds for an adapter; a product's weights are new ones."""
    if type(value) is not nn.Linear:
        return copy.deepcopy(value)
    like: dict[str, Any] = {"bias": value.bias is not None, "device": value.weight.device, "dtype": value.weight.dtype}
    return nn.Linear(value.in_features, value.out_features, **like)  # draws, as PEFT does: a seed gives the same start


def default_targets(base: nn.Module) -> tuple[str, ...]:
    """The layers of a base model that get adapters: all linear ones of a decoder layer, fused ones as they are."""
    return FUSED_TARGETS if set(FUSED_TARGETS) <= _layer_names(base) else LORA_TARGETS


def _layer_names(base: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, _ in base.named_modules()}


def _check_targets(base: nn.Module, targets: tuple[str, ...]) -> None:
    """PEFT is content with one name that it finds.

    Raises:
        ClaraError: the base model has no layers of some name.
    """
    missing = [name for name in targets if name not in _layer_names(base)]
    if missing:
        hint = "lora_targets may name other layers"
        if set(FUSED_TARGETS) <= _layer_names(base):
            hint = f"it has fused ones: use lora_targets {', '.join(FUSED_TARGETS)}"
        raise ClaraError(
            f"{type(base).__name__} has no layers named {', '.join(missing)}; use a base model of the Llama family "
            f"(Llama, Mistral, Qwen2, Phi ..), or {hint}"
        )

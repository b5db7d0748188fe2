"""The roles: one frozen base, one LoRA adapter for each role, and the switch that says which one a pass runs as.

All LoRA layers read one shared list that holds the active role; switching writes one element, also inside one training
step, where PEFT's ``set_adapter`` would turn gradients on and off.
Gradient checkpointing runs a layer again in the backward pass, when another role may be active, so the role of the
first run is captured and restored for the second (see `Roles.checkpoint_contexts`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from clara_model.checkpoint.config import FUSED_TARGETS, LORA_TARGETS, ClaraConfig
from clara_model.checkpoint.files import fresh
from clara_model.errors import ClaraError

BASE = "base"
"""The base model alone, no adapter."""


class RoleLinear(nn.Module):
    """A linear layer with an adapter for each role (LoRA, Hu et al. 2021), named as by PEFT.

    The adapter's product is added in place where that may be, which saves two tensors of the result's size: where
    hidden sizes are small that is a fifth of an encoder pass.
    """

    merged_weight: Tensor | None = None
    """The weight with an adapter's product added, while passes take it (`modeling.merged`)."""

    def __init__(self, base_layer: nn.Linear, active: list[str]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_dropout, self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self._active_adapter = active

    def add(self, role: str, config: ClaraConfig) -> None:
        """A freshly initialised adapter, whose output is zero, in float32 at least."""
        weight, rate = self.base_layer.weight, config.lora_dropout
        dtype = torch.promote_types(weight.dtype, torch.float32)
        how: dict[str, Any] = {"bias": False, "device": weight.device, "dtype": dtype}
        self.lora_dropout[role] = nn.Dropout(rate) if rate else nn.Identity()
        self.lora_A[role] = nn.Linear(self.base_layer.in_features, config.lora_rank, **how)
        self.lora_B[role] = nn.Linear(config.lora_rank, self.base_layer.out_features, **how)
        self.scaling[role] = config.lora_alpha / config.lora_rank
        self.reset(role)

    def reset(self, role: str) -> None:
        """Initialise one adapter anew."""
        nn.init.kaiming_uniform_(cast(Tensor, self.lora_A[role].weight), a=math.sqrt(5))
        nn.init.zeros_(cast(Tensor, self.lora_B[role].weight))

    def forward(self, x: Tensor) -> Tensor:
        """``W x + scale * B A x`` as the active role."""
        if self.merged_weight is not None:
            return functional.linear(x, self.merged_weight, cast(Tensor | None, self.base_layer.bias))
        role = self._active_adapter[0]
        if role not in self.lora_A:
            return cast(Tensor, self.base_layer(x))
        if torch.is_grad_enabled() or self.training:
            return self._in_training(x, role)
        up = cast(Tensor, self.lora_B[role].weight)
        alike = x.dtype == self.base_layer.weight.dtype == up.dtype and not torch.is_autocast_enabled(x.device.type)
        result: Tensor = self.base_layer(x)
        if not alike or hasattr(up, "ds_id"):  # DeepSpeed ZeRO 3 gathers weights for module calls only
            low = self.lora_A[role](x.to(up.dtype))
            return (result + self.lora_B[role](low) * self.scaling[role]).to(result.dtype)
        low = self.lora_A[role](x).flatten(0, -2)
        result.view(-1, result.shape[-1]).addmm_(low, up.T, alpha=self.scaling[role])
        return result

    def _in_training(self, x: Tensor, role: str) -> Tensor:
        """The same with dropout on the adapter's input; under autocast the input stays as it is."""
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
        if low.dtype == result.dtype and type(self.base_layer) is nn.Linear and not hasattr(up, "ds_id"):
            result = result.addmm_(low, up.T.to(low.dtype), alpha=scale)
        else:  # a base of another dtype or quantized, or ZeRO 3
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

    def __init__(self, base: PreTrainedModel, config: ClaraConfig, *, to_be_loaded: bool = False) -> None:
        """Add an adapter for each role, ``to_be_loaded`` or freshly initialised; the base's own weights are frozen."""
        self._config = config
        self.names: tuple[str, ...] = ()
        self._active = [BASE]
        self._base = [base]  # in a list, so that this object is no parent of the base
        base.requires_grad_(False)
        _check_targets(base, config.lora_targets)
        self._layers: dict[str, RoleLinear] = {}
        for name, module in list(base.named_modules()):
            parent, _, last = name.rpartition(".")
            if last in config.lora_targets:
                self._layers[name] = RoleLinear(cast(nn.Linear, module), self._active)
                setattr(base.get_submodule(parent), last, self._layers[name])
        with no_init_weights() if to_be_loaded else nullcontext():
            for role in config.roles:
                self.add(role)

    def add(self, role: str) -> None:
        """Add a freshly initialised adapter (its output is zero) for one more role.

        Raises:
            ClaraError: the role is there already.
        """
        if role in self.names:
            raise ClaraError(f"this checkpoint already has a {role.replace('_', ' ')}")
        for layer in self._layers.values():
            layer.add(role, self._config)
        self.names = (*self.names, role)
        self.parameters_require_grad(())

    def layers(self) -> dict[str, RoleLinear]:
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
            layer.reset(role)


def default_targets(base: nn.Module) -> tuple[str, ...]:
    """The layers of a base model that get adapters: all linear ones of a decoder layer, fused ones as they are."""
    return FUSED_TARGETS if set(FUSED_TARGETS) <= _layer_names(base) else LORA_TARGETS


def _layer_names(base: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, _ in base.named_modules()}


def _check_targets(base: nn.Module, targets: tuple[str, ...]) -> None:
    """Raise a `ClaraError` where the base model has no linear layers of some name."""
    missing = [name for name in targets if name not in _layer_names(base)]
    if missing:
        hint = "lora_targets may name other layers"
        if set(FUSED_TARGETS) <= _layer_names(base):
            hint = f"it has fused ones: use lora_targets {', '.join(FUSED_TARGETS)}"
        raise ClaraError(
            f"{type(base).__name__} has no layers named {', '.join(missing)}; use a base model of the Llama family "
            f"(Llama, Mistral, Qwen2, Phi ..), or {hint}"
        )

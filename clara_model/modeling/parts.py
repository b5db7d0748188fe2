"""What a `ClaraModel` is made of: base model, tokens, three roles, memory rows; their weights, and which of them train.

Shapes: ``M`` memory tokens, ``D`` hidden size, ``V`` vocabulary with the added tokens. Leaves out what is computed with
the parts (`modeling.model`), and files (`clara_model.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from clara_model.checkpoint import files
from clara_model.checkpoint.base_model import only_tokens, resize_embeddings
from clara_model.checkpoint.config import ClaraConfig
from clara_model.errors import ClaraError
from clara_model.modeling.adapters import Roles
from clara_model.modeling.identity import Identity, Place
from clara_model.modeling.memory import MemoryRows
from clara_model.modeling.merged import Merged
from clara_model.modeling.residual import Residuals
from clara_model.modeling.tokens import Tokens

ENCODERS = ("compressor", "query_reasoner")


class ClaraParts(nn.Module):
    """A base model with CLaRa's roles: its parts and their weights."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        config: ClaraConfig,
        *,
        to_be_loaded: bool = False,
    ) -> None:
        """Fresh roles on a base model: adapters whose output is zero, memory rows as the resized embedding gives them.

        Args:
            base: a causal language model of the Llama family (projections named as in `config.LORA_TARGETS`);
                changed in place: special tokens are added to its embeddings, which shrinks a padded vocabulary, and
                of its generation defaults only the special tokens stay.
            tokenizer: the base model's fast tokenizer with its chat template; changed in place.
            config: sizes, roles and prompts.
            to_be_loaded: weights follow at once, so nothing is spent on starting values of the added rows.
        """
        super().__init__()
        self.tokens = Tokens(tokenizer, config)
        resize_embeddings(base, len(self.tokens), mean_of_old=not to_be_loaded)
        base.generation_config = only_tokens(base.generation_config)
        self.base = base
        self.roles = Roles(base, config)
        self.merged = Merged(self.roles, "generator")
        added = self._embedding_weight()[self.tokens.memory_ids]
        self.memory = MemoryRows([role for role in config.roles if role in ENCODERS], added.float())
        self.residuals = Residuals()
        if config.residual != "none":
            for role in self.memory.rows:
                center = self._embedding_weight().detach().float().mean(dim=0)
                self.residuals.add(role, config, center, self.tokens.added_ids[0])
        self.embeddings_changed = False
        self.identity = Identity(base, self.tokens)
        self.set_trainable(())
        self.eval()

    @property
    def config(self) -> ClaraConfig:
        """Sizes, roles and prompts; the tokens go by the same object."""
        return self.tokens.config

    @config.setter
    def config(self, config: ClaraConfig) -> None:
        self.tokens.config = config

    @property
    def device(self) -> torch.device:
        """Where the base's embedding lies, and inputs go."""
        return self._embedding_weight().device

    @property
    def fingerprint(self) -> str:
        """Of everything that shapes a document's latents; see `modeling.identity`. Computed again only after a change.

        Raises:
            ClaraError: there is no compressor.
        """
        if "compressor" not in self.config.roles:
            raise ClaraError(f"this checkpoint has no compressor; it has {', '.join(self.config.roles)}")
        return self.identity.fingerprint(self._compressor, self._compressor_places)

    def _compressor(self) -> dict[str, nn.Parameter]:
        """The weights that shape latents: an adapter whose output is zero, as a fresh one's, does not."""
        named = self.trainable_parameters(["compressor"])
        adds = not self.roles.adds_nothing("compressor")
        return {name: p for name, p in named.items() if adds or ".lora_" not in name}

    def _compressor_places(self) -> list[Place]:
        """Where the weights that are not the decoder's are held."""
        layers = self.roles.layers().values()
        lora = [side["compressor"] for layer in layers for side in (layer.lora_A, layer.lora_B)]
        modules = [*lora, self.base.get_input_embeddings()]
        own = self.residuals.of["compressor"]._parameters if "compressor" in self.residuals.of else {}
        rows = (self.memory.rows._parameters, "compressor")
        return [*((module._parameters, "weight") for module in modules), rows, *((own, name) for name in own)]

    # -- weights -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def load_weights(self, checkpoint: files.Checkpoint) -> None:
        """Copy a checkpoint's weights in.

        Raises:
            ClaraError: a weight is missing or has a shape that this base model does not have.
        """
        source = str(checkpoint.folder)
        for role, weights in checkpoint.adapters.items():
            self.roles.load(role, weights, source)
        for name, weight in self._embeddings().items():
            if name in checkpoint.embeddings:
                self._load_embedding(name, weight, checkpoint.embeddings[name], source)
            elif name == "embed_tokens":
                raise ClaraError(f"{source} holds no embedding rows of the added tokens; is the download complete?")
            else:  # an output row that is never meant to win
                weight[self.tokens.added_ids] = weight[: self.tokens.added_ids[0]].mean(dim=0)
        added = self._embedding_weight()[self.tokens.memory_ids]
        for role in self.memory.rows:
            rows, values = self.memory.of(role), checkpoint.memory.get(role, added)
            if rows.shape != values.shape:
                raise ClaraError(f"memory rows of the {role} in {source} have shape {tuple(values.shape)}, "
                                 f"this model needs {tuple(rows.shape)}")  # fmt: skip
            rows.copy_(values)
        self.residuals.load(checkpoint.residual, source)
        self.identity.forget_compressor()

    def _embedding_weight(self) -> Tensor:
        return cast(Tensor, self.base.get_input_embeddings().weight)

    def _embeddings(self) -> dict[str, Tensor]:
        """The matrices with rows of added tokens: the input embedding and, where it is not tied, the output one."""
        weight, head = self._embedding_weight(), cast(Tensor, self.base.get_output_embeddings().weight)
        return {"embed_tokens": weight} if head is weight else {"embed_tokens": weight, "lm_head": head}

    def _load_embedding(self, name: str, weight: Tensor, rows: Tensor, source: str) -> None:
        """Whole matrix or added rows only; a whole one that differs from the base's is remembered for saving."""
        added = self.tokens.added_ids
        if rows.shape == weight.shape:
            kept = sorted(set(range(len(weight))) - set(added))
            self.embeddings_changed |= not torch.equal(weight[kept], rows[kept].to(weight))
            weight.copy_(rows)
        elif rows.shape == (len(added), weight.shape[1]):
            weight[torch.tensor(added, device=weight.device)] = rows.to(weight)
        else:
            raise ClaraError(
                f"{name} in {source} has shape {tuple(rows.shape)}, the base model needs {tuple(weight.shape)}; "
                "does the base model match?"
            )

    def to_float(self, dtype: torch.dtype) -> Self:
        """Adapters and memory rows in a float type (a quantized base keeps its own)."""
        for parameter in self.trainable_parameters(self.config.roles).values():
            parameter.data = parameter.data.to(dtype)
        return self

    def state(self) -> files.Checkpoint:
        """The weights that make this checkpoint: adapters, memory rows, rows of added tokens; never the base."""
        added = self.tokens.added_ids
        return files.Checkpoint(
            self.config,
            {role: {key: p.detach() for key, p in self.roles.parameters(role).items()} for role in self.config.roles},
            {role: self.memory.of(role).detach() for role in self.memory.rows},
            {
                name: weight.detach() if self.embeddings_changed else weight.detach()[added]
                for name, weight in self._embeddings().items()
            },
            {name: parameter.detach() for name, parameter in self.residuals.named(self.config.roles).items()},
        )

    # -- training switches -------------------------------------------------------------------------------------

    def trainable_parameters(self, roles: Sequence[str]) -> dict[str, nn.Parameter]:
        """LoRA weights, memory rows and residuals of some roles, by name."""
        named = {f"{role}.{key}": p for role in roles for key, p in self.roles.parameters(role).items()}
        named |= {f"memory.{role}": self.memory.of(role) for role in roles if role in self.memory.rows}
        return named | self.residuals.named(roles)

    def set_trainable(self, roles: Sequence[str], *, residual_gate: bool = True) -> None:
        """Let exactly these roles train (LoRA weights, memory rows, residuals); the base and all else is frozen.

        Without ``residual_gate``, roles that have a residual train it alone, and its gate stays as it is.
        """
        unknown = [role for role in roles if role not in self.config.roles]
        if unknown:
            raise ClaraError(f"this checkpoint has no {', '.join(unknown)}; it has {', '.join(self.config.roles)}")
        self.requires_grad_(False)
        for parameter in self.trainable_parameters(roles).values():
            parameter.requires_grad_(True)
        for role in () if residual_gate else set(roles) & set(self.residuals.of):
            for name, parameter in self.trainable_parameters([role]).items():
                parameter.requires_grad_(name.startswith("residual.") and not name.endswith(".gate"))
        self.trainable_roles = tuple(roles)
        self.train(self.training)

    def add_role(self, role: str, copy_of: str | None = None) -> None:
        """Add a role, fresh or as a copy of another (stage 3: the query reasoner starts as the compressor)."""
        if copy_of is not None and copy_of not in self.config.roles:
            raise ClaraError(f"this checkpoint has no {copy_of} to copy; it has {', '.join(self.config.roles)}")
        config = replace(self.config, roles=(*self.config.roles, role))
        example = next(iter(self.roles.parameters(self.config.roles[0]).values()))
        self.roles.add(role)
        for parameter in self.roles.parameters(role).values():
            parameter.data = parameter.data.to(example.device, example.dtype)
        if copy_of is not None:
            self.roles.copy(copy_of, role)
        if role in ENCODERS:
            has_rows = copy_of is not None and copy_of in self.memory.rows
            rows = self.memory.of(cast(str, copy_of)) if has_rows else self._embedding_weight()[self.tokens.memory_ids]
            self.memory.rows[role] = nn.Parameter(rows.detach().clone().to(example.dtype), requires_grad=False)
            if copy_of is not None:
                self.residuals.start_from(copy_of, role, self.config, self.tokens.added_ids[0])
        self.config = config
        self.train(self.training)  # the new role's dropout follows the others

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """A move to another device or float type."""
        self.identity.forget()
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Self:
        """Training mode; the dropout of frozen roles stays off, so a frozen compressor's latents do not move."""
        super().train(mode)
        if mode:
            self.identity.forget_compressor()  # some optimizers move weights unseen
            for layer in self.roles.layers().values():
                for role in self.roles.names:
                    layer.lora_dropout[role].train(role in self.trainable_roles)
        return self

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute layers in the backward pass, each in the role of its first run; gradients stay the same."""
        options = {**(gradient_checkpointing_kwargs or {}), "use_reentrant": False}
        options["context_fn"] = self.roles.checkpoint_contexts
        enable: Callable[..., None] = getattr(
            self.base, "activation_checkpointing_enable", self.base.gradient_checkpointing_enable
        )
        enable(options)

    activation_checkpointing_enable = gradient_checkpointing_enable

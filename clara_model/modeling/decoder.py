"""A Llama's or Mistral's decoder in plain torch, for generating on a CPU with the base's own `generate`.

It computes what transformers' classes compute with fewer passes over small tensors: fused projections whose weights
have the adapter added, an attention cache that is written in place, float32 between the products. A product is in its
weight's float type; where the machine is faster so, that of a single position is in float16 (`Quick`). Which bases it
can stand for: `fits`. Leaves out training, GPUs, quantized bases and other architectures: those run as they are.

Shapes: ``B`` prompts, ``T`` new positions, ``P`` positions before them, ``D`` a head's size.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

logger = logging.getLogger(__name__)

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
FUSED = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""The projections of a layer whose weights lie behind one another."""


def fits(base: PreTrainedModel) -> bool:
    """Whether `PlainDecoder` computes what this base does."""
    config: Any = base.config
    return (
        type(base).__name__ in ARCHITECTURES
        and config.hidden_act == "silu"
        and config._attn_implementation == "sdpa"
        and not getattr(config, "sliding_window", None)
        and not any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias"))
        and getattr(config, "quantization_config", None) is None
        and base.device.type == "cpu"
    )


class Product:
    """A weight ``[N, K]`` to multiply positions with, in a float type, and for single positions in float16 as well."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, quick: bool = False, own: bool = True) -> None:
        """``quick`` has a copy in float16 made, where its numbers fit and this machine is faster with it.

        A weight of its ``own``, not one that the base uses too, is laid out as the processor's products want it.
        """
        self.weight, self.half, self.packed = weight.to(dtype), None, own and packs(dtype)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)
        if quick and half_is_faster(dtype) and bool(weight.abs().max() <= torch.finfo(torch.float16).max):
            self.half = weight.half()

    def __call__(self, x: Tensor, quick: bool) -> Tensor:
        """Float32 ``[.., K]`` to float32 ``[.., N]``."""
        if quick and self.half is not None and x.numel() == x.shape[-1]:
            return functional.linear(x.half(), self.half).float()
        x = x.to(self.weight.dtype)
        if self.packed:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")).float()
        return functional.linear(x, self.weight).float()


def packs(dtype: torch.dtype) -> bool:
    """Whether weights are packed once, not in every product: 7 % of one in bfloat16, a quarter in float32.

    By oneDNN's operators, which torch's own compiler uses so; measured with AVX-512, and done there alone.
    """
    here = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return here and dtype in (torch.float32, torch.bfloat16)


@cache
def half_is_faster(dtype: torch.dtype) -> bool:
    """Whether this machine multiplies one position faster by a float16 weight; measured once, in some milliseconds."""

    def seconds(kind: torch.dtype) -> float:
        weights, x, rounds = [torch.ones(2048, 1024, dtype=kind) for _ in range(4)], torch.ones(1, 1024, dtype=kind), []
        for _ in range(4):
            start = time.perf_counter()
            for weight in weights:
                functional.linear(x, weight)
            rounds.append(time.perf_counter() - start)
        return min(rounds)

    return dtype != torch.float16 and seconds(torch.float16) < 0.8 * seconds(dtype)


class PlainDecoder:
    """A base's forward pass over merged weights."""

    def __init__(self, base: PreTrainedModel, products: Mapping[str, Product], head: Product, quick: bool) -> None:
        """Take a base's norms and rotary embedding.

        Args:
            base: that `fits`.
            products: ``LAYER.PROJECTION`` (the first of those that are fused) to its weight, for all of `FUSED`.
            head: the output matrix.
            quick: whether single positions are multiplied in float16.
        """
        config, decoder = base.config, base.get_decoder()
        self._quick, self._head = quick, head
        self._embed, self._rotary = base.get_input_embeddings(), cast(nn.Module, decoder.rotary_emb)
        self._heads, self._groups = config.num_attention_heads, config.num_key_value_heads
        self._size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._eps, self._norm = config.rms_norm_eps, decoder.norm.weight.float()
        self._layers = [
            (
                *(layer.input_layernorm.weight.float(), layer.post_attention_layernorm.weight.float()),
                *(products[f"{number}.{group[0]}"] for group in FUSED),
            )
            for number, layer in enumerate(decoder.layers)
        ]

    def cache(self) -> Cache:
        """An empty attention cache."""
        return Cache(layers=[Room() for _ in self._layers])

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """As the base's own ``forward`` in `generate`: logits of the last ``logits_to_keep`` positions, 0: of all."""
        embeds = self._embed(input_ids) if inputs_embeds is None else inputs_embeds
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        count = embeds.shape[1]
        if position_ids is None:
            position_ids = torch.arange(past, past + count)[None]
        x, mask = embeds.float(), _mask(attention_mask, past, count)
        states = self._states(x, position_ids, mask, past_key_values, logits_to_keep)
        if self._quick and not bool(states[:, -1].isfinite().all()):
            logger.info("a state left float16's range; single positions are multiplied in the weights' own type")
            self._quick = False
            for layer in past_key_values.layers if past_key_values is not None else ():
                cast(Room, layer).back_to(past)
            states = self._states(x, position_ids, mask, past_key_values, logits_to_keep)
        logits = self._head(states[:, -logits_to_keep:].contiguous(), self._quick)
        return CausalLMOutputWithPast(logits=cast(Any, logits), past_key_values=past_key_values)

    def _states(self, x: Tensor, positions: Tensor, mask: Tensor | None, kept: Cache | None, keep: int) -> Tensor:
        """Last hidden states ``[B, T, hidden]`` of input embeddings, or of the last position where ``keep`` is 1."""
        rows, count, width = x.shape
        heads, groups, quick = self._heads, self._groups, self._quick
        cos, sin = (table.unsqueeze(1) for table in self._rotary(x, positions))
        sin = torch.cat([-sin[..., : self._size // 2], sin[..., self._size // 2 :]], dim=-1)
        for number, (norm, second_norm, qkv, out, gate_up, down) in enumerate(self._layers):
            normed = functional.rms_norm(x, (width,), norm, self._eps)
            made = qkv(normed, quick).view(rows, count, -1, self._size).transpose(1, 2)
            turned, values = made[:, : heads + groups], made[:, heads + groups :]
            turned = (turned * cos).addcmul_(turned.roll(self._size // 2, dims=-1), sin)
            queries, keys = turned[:, :heads], turned[:, heads:]
            if kept is not None:
                keys, values = kept.update(keys, values, number)
            if keep == 1 and number == len(self._layers) - 1:  # nothing reads the others any more
                queries, x, count = queries[:, :, -1:], x[:, -1:], 1
                mask = None if mask is None else mask[:, :, -1:]
            if count == 1:  # the query heads of a group as rows of one product
                queries = queries.reshape(rows, groups, -1, self._size)
                found = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            else:
                found = functional.scaled_dot_product_attention(
                    queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
                ).transpose(1, 2)
            found = found.reshape(rows, count, -1)
            x = x + out(found, quick)
            gate, up = gate_up(functional.rms_norm(x, (width,), second_norm, self._eps), quick).chunk(2, -1)
            x = x + down(functional.silu(gate) * up, quick)
        return functional.rms_norm(x, (width,), self._norm, self._eps)


def _mask(given: Tensor | None, past: int, count: int) -> Tensor | None:
    """Which of ``P + T`` positions each new one sees, ``[B, 1, T, P + T]``; None: all before it."""
    padded = given is not None and not bool(given.all())
    if not padded and (count == 1 or past == 0):
        return None
    seen = torch.ones(count, past + count, dtype=torch.bool).tril(past)[None, None]
    if not padded:
        return seen
    itself = torch.eye(count, past + count, dtype=torch.bool).roll(past, dims=1)  # padding sees something at least
    return (seen & cast(Tensor, given).bool()[:, None, None]) | itself


class Room(DynamicLayer):
    """One layer's attention cache, written in place where transformers' own is joined anew for every token."""

    keys: Tensor
    values: Tensor
    _both: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, groups, P + T, D]`` with the new ones behind."""
        past, new = self.get_seq_length(), key_states.shape[-2]
        both = self._both
        if both is None or past + new > both.shape[-2] or self.keys.data_ptr() != both.data_ptr():
            rows, groups, _, size = key_states.shape
            both = key_states.new_empty(2, rows, groups, past + new + max(64, past // 2), size)
            if past:  # also where beams or candidates were reordered into tensors of their own
                both[0, :, :, :past], both[1, :, :, :past] = self.keys, self.values
            self._both, self.is_initialized = both, True
            self.dtype, self.device = key_states.dtype, key_states.device
        both[0, :, :, past : past + new], both[1, :, :, past : past + new] = key_states, value_states
        self.keys, self.values = both[0, :, :, : past + new], both[1, :, :, : past + new]
        return self.keys, self.values

    def back_to(self, length: int) -> None:
        """Forget what stands behind the first ``length`` positions."""
        self.keys, self.values = self.keys[..., :length, :], self.values[..., :length, :]

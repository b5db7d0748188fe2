"""The fingerprint of a model: of everything that shapes a document's latents, and whether any of it has changed since.

It covers all of the base's weights but the output matrix, the rows of added tokens, the compressor's LoRA and memory
rows, the tokenizer, the base's own configuration, and every field of `ClaraConfig` that is not listed in `NOT_SHAPING`.

Where latents may be exchanged: a float32 model has one fingerprint on every device and with every attention, because
its latents agree to rounding (about 1e-5). In half precision, or quantised, rounding moves selections and answers, so
float type, quantisation, kind of device and attention are part of the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from clara_model.checkpoint.base_model import weights_key
from clara_model.checkpoint.config import ClaraConfig
from clara_model.checkpoint.hashes import hash_tensors, kept, kept_hash
from clara_model.modeling.tokens import Tokens

DIGITS = 32
"""Hexadecimal digits of a fingerprint."""
NOT_SHAPING = (
    *("base_model", "base_revision", "roles", "lora_dropout", "top_k", "max_prompt_length", "stage", "prompts"),
    *("licence", "base_sha256", "word_weight", "expand"),
)
"""Fields of `ClaraConfig` that no latent depends on; a new field counts until it is named here."""
_COSMETIC = (
    *("architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "vocab_size"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "attention_dropout", "pretraining_tp"),
    *("tie_word_embeddings", "auto_map", "return_dict", "output_attentions", "output_hidden_states"),
)
"""Fields of the base's configuration that no latent depends on."""
_SAMPLE = 8
LARGE_TOKENIZER = 1 << 18
"""Characters from which on a tokenizer is kept in the form that is hashed, which takes half a second to make."""
Place = tuple[dict[str, Any], str]
"""Where a tensor is held: the dictionary of a module, and its name there."""


class Watch:
    """Notices, in microseconds, that one of many tensors has been changed or replaced.

    Sees every in-place operation, a parameter or its ``.data`` that was replaced, and through ``.data`` a change of
    many numbers (a few of each tensor are compared); a change of single numbers through ``.data`` is not seen.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        # Views keep the memory alive, so that no other tensor can come to lie at the same address.
        views = [_few(tensor) for tensor in self._tensors()]
        self._in_memory = [view.numpy().data for view in views if view.device.type == "cpu"]
        elsewhere = [view for view in views if view.device.type != "cpu"]
        devices = {view.device for view in elsewhere}
        self._elsewhere = [[view for view in elsewhere if view.device == device] for device in devices]
        self._seen, self._values = self._state(), self._sample()

    def unchanged(self) -> bool:
        """Whether all tensors are as they were when this watch began."""
        if self._seen != self._state():
            return False
        return self._sample() == self._values

    def _tensors(self) -> list[Tensor]:
        return [held[name] for held, name in self._places]

    def _sample(self) -> bytes:
        """The bytes of all views."""
        there = [bytes(torch.cat(group).cpu().numpy().data) for group in self._elsewhere]
        return b"".join([*self._in_memory, *there])

    def _state(self) -> list[tuple[int, int]]:
        return [(tensor.data_ptr(), tensor._version) for tensor in self._tensors()]


def _few(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    middle = flat.numel() // 2
    return flat[middle : middle + _SAMPLE].view(torch.uint8)


class Identity:
    """Keeps a model's fingerprint, and computes it again only when something that it covers has changed."""

    def __init__(self, base: PreTrainedModel, tokens: Tokens) -> None:
        self._base = [base]  # in a list, so that this object is no parent of the base
        self._tokens = tokens
        self._base_watch: Watch | None = None
        self._base_hash: str | None = None
        self._files_key: str | None = None
        self._own_watch: Watch | None = None
        self._settings: tuple[Any, ...] = ()
        self._fingerprint = ""

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a model hashes its own weights."""
        return {"_base": self._base, "_tokens": self._tokens}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_base"][0], state["_tokens"])  # type: ignore[misc]

    def forget(self) -> None:
        """Compute everything anew when next asked, e.g. after a move to another device."""
        self.forget_compressor()
        self._base_watch = self._base_hash = self._files_key = None

    def forget_compressor(self) -> None:
        """The compressor's weights are about to move, perhaps unseen; the base's are not."""
        self._own_watch = None

    def as_loaded(self) -> None:
        """The base is as its files are: where those were hashed before, they need not be again."""
        self._base_watch = Watch(_decoder_places(self._base[0]))
        self._base_hash, self._files_key = None, weights_key(self._base[0])

    def fingerprint(
        self, compressor: Callable[[], Mapping[str, nn.Parameter]], places: Callable[[], Sequence[Place]]
    ) -> str:
        """32 hexadecimal digits.

        Args:
            compressor: gives LoRA weights and memory rows by name.
            places: gives where these and the input embedding are held.
        """
        settings = (self._tokens.config, len(self._tokens), self._attention())
        known = self._own_watch is not None and self._own_watch.unchanged() and settings == self._settings
        if known and self._base_watch is not None and self._base_watch.unchanged():
            return self._fingerprint
        own = Watch(places())
        parts = [
            *("clara fingerprint 1", _sizes(self._tokens.config), _plain(_base_config(self._base[0]))),
            *(_tokenizer(self._tokens), self._hash_of_base(), self._environment()),
            hash_tensors({"embedding": cast(Tensor, self._base[0].get_input_embeddings().weight), **compressor()}),
        ]
        self._fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:DIGITS]
        self._own_watch, self._settings = own, settings
        return self._fingerprint

    def _hash_of_base(self) -> str:
        if self._base_watch is None or not self._base_watch.unchanged():
            self._base_watch, self._base_hash, self._files_key = Watch(_decoder_places(self._base[0])), None, None
        if self._base_hash is None:
            tensors = _decoder_tensors(self._base[0])
            self._base_hash = kept_hash(self._files_key, tensors) if self._files_key else hash_tensors(tensors)
        return self._base_hash

    def _attention(self) -> str:
        return str(self._base[0].config.__dict__.get("_attn_implementation_internal"))

    def _environment(self) -> str:
        """What besides the weights shapes latents beyond rounding; nothing for float32."""
        base = self._base[0]
        quantised = getattr(base.config, "quantization_config", None) is not None
        if base.dtype in (torch.float32, torch.float64) and not quantised:
            return str(base.dtype)
        return f"{base.dtype} {base.device.type} {self._attention()} {quantised}"


def _decoder_places(base: PreTrainedModel) -> list[Place]:
    """Every parameter of the decoder that is no adapter's and not the embedding."""
    embedding = base.get_input_embeddings()
    return [
        (module._parameters, name)
        for path, module in base.get_decoder().named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and module is not embedding and ".lora_" not in f".{path}."
    ]


def _decoder_tensors(base: PreTrainedModel) -> dict[str, Tensor]:
    """The decoder's weights by the names they have without adapters, a quantised layer's scales included."""
    state = base.get_decoder().state_dict()
    embedding = {key for key in state if key.startswith("embed_tokens.")}
    kept = {key for key in state if ".lora_" not in key} - embedding
    return {key.replace(".base_layer.", "."): state[key] for key in kept if isinstance(state[key], Tensor)}


def _sizes(config: ClaraConfig) -> str:
    """The fields that shape latents, without those that have their default: a field added later moves nothing."""
    found = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in NOT_SHAPING}
    defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    return _plain({name: value for name, value in found.items() if value != defaults.get(name, MISSING)})


def _base_config(base: PreTrainedModel) -> dict[str, Any]:
    return {name: value for name, value in base.config.to_diff_dict().items() if name not in _COSMETIC}


def _tokenizer(tokens: Tokens) -> str:
    """What turns text into ids: model, normaliser, pre-tokeniser, added tokens, and the ends of a document."""
    whole = tokens.tokenizer.backend_tokenizer.to_str()
    ends = [tokens.tokenizer.bos_token_id, tokens.tokenizer.eos_token_id]

    def make() -> str:
        state = json.loads(whole)
        used = {name: state.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
        return _plain({**used, "ends": ends})

    if len(whole) < LARGE_TOKENIZER:
        return make()
    key = hashlib.sha256(f"tokenizer 1\0{ends}\0{whole}".encode()).hexdigest()
    signed = kept(key, lambda: _signed(make()), lambda text: text == _signed(text[64:]))
    return signed[64:]


def _signed(text: str) -> str:
    """A text behind its SHA-256, by which half of one is noticed."""
    return hashlib.sha256(text.encode()).hexdigest() + text


def _plain(values: dict[str, Any]) -> str:
    """JSON with sorted keys, without what is empty or off, as which a library writes fields that it learned later."""
    return json.dumps(_filled(values), sort_keys=True, default=str)


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            str(k): _filled(v) for k, v in value.items() if v is not None and v is not False and v not in ("", [], {})
        }
    return [_filled(item) for item in value] if isinstance(value, (list, tuple)) else value

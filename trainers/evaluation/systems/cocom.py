"""COCOM (arXiv 2407.09252): a passage's states at repeated ``<MEM>`` tokens, by one adapter that also writes.

``naver/cocom-v1-{4,16,128}-mistral-7b``: a configuration that names the base, and safetensors with the whole base and
an unmerged LoRA (rank 16, scale 2) under ``decoder.base_model.model.``; four rows more than the base's vocabulary:
``<MEM>``, ``<AE>``, ``<ENC>``, ``<SEP>``. The adapter is merged when it is loaded. The memory tokens stand after the
text, as in their harness (bergen): the published module puts them before it, where under causal attention they would
say nothing about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from clara_model.checkpoint import base_files
from clara_model.checkpoint.base_model import resolve_base
from clara_model.checkpoint.config import read_json
from clara_model.errors import ClaraError, blaming
from trainers.evaluation.systems import find
from trainers.evaluation.systems.soft_prompts import SoftPromptReader, load_tokenizer, states, tensors

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from trainers.evaluation.answerers import Budget

PREFIX = "decoder.base_model.model."
SCALE = 2.0
"""Of the adapter: ``lora_alpha`` is twice the rank."""
TOKENS = 128
"""Of a passage that are read."""
PROMPT = "[INST]{question}\n[/INST]\n"


class Cocom(SoftPromptReader):
    """A vector for every ``compr_rate`` tokens, the last of a passage for what is left."""

    system = "COCOM"

    def __init__(self, name: str, clara: Clara, budget: Budget) -> None:
        super().__init__(clara, budget)
        folder = find(name, self.system)
        config = read_json(folder / base_files.CONFIG)
        if "compr_rate" not in config or not isinstance(config.get("decoder_model_name"), str):
            raise ClaraError(
                f"{folder / base_files.CONFIG} names no compr_rate and decoder_model_name, as COCOM's does"
            )
        if own := config.get("compr_model_name"):
            raise ClaraError(f"{folder} compresses by a model of its own, {own!r}; not supported")
        self.rate = int(config["compr_rate"])
        base = resolve_base(config["decoder_model_name"], folder)
        self.tokenizer = load_tokenizer(base)
        self.decoder = self._merged(folder, base)
        rows = self.vocabulary(self.decoder)
        self._memory, _, self._start, self._end = range(rows - 4, rows)
        self.ends = (int(self.tokenizer.eos_token_id),)

    def _merged(self, folder: Path, base: str) -> PreTrainedModel:
        """The base with its adapter's product added to each weight that has one."""
        found = tensors(folder, lambda key: key.startswith(PREFIX))
        weights: dict[str, Tensor] = {}
        for key, tensor in found.items():
            if ".lora_" in key:
                continue
            name = key.removeprefix(PREFIX)
            if ".base_layer." in name:
                up, down = (found[key.replace("base_layer", f"lora_{side}.default")].float() for side in "BA")
                tensor = (tensor.float() + SCALE * up @ down).to(tensor.dtype)
                name = name.replace(".base_layer", "")
            weights[name] = tensor
        if "model.embed_tokens.weight" not in weights:
            raise ClaraError(f"{folder} holds no weights under {PREFIX}, so these are none of COCOM; get them again")
        with blaming(folder), base_files.without_bars():
            config = AutoConfig.from_pretrained(base, trust_remote_code=False)
            config.vocab_size = len(weights["model.embed_tokens.weight"])
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=self.dtype)
            model.load_state_dict(weights)
        return model.to(self.device).eval()  # type: ignore[arg-type]

    def compress(self, text: str) -> Tensor:
        """The states at the memory tokens, ``[k, D]``."""
        ids = self.text_ids(text)[:TOKENS]
        count = max(1, -(-len(ids) // self.rate))
        around = [self._start, self.tokenizer.bos_token_id, *ids, self.tokenizer.eos_token_id]
        return states(self.decoder, self.embed([*around, *[self._memory] * count]))[-count:]

    def prompt(self, question: str, blocks: Sequence[Tensor]) -> Tensor:
        """bos, each passage's vectors with a separator behind them, and the question in an instruction."""
        end = self.embed([self._end])
        slots = [part for block in blocks for part in (block.to(end.dtype), end)]
        asked = self.embed(self.text_ids(PROMPT.format(question=question)))
        return torch.cat([self.embed([self.tokenizer.bos_token_id]), *slots, asked])

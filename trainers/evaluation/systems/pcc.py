"""PCC (ACL 2025, long.1394): a GPT-2's states at memory tokens, converted into inputs of a frozen Llama 3.

``BroAlanTaps/Stage2-PCC-Lite-{4,16,64,128,256}x``: a GPT-2 with ``<mem_0>`` to ``<mem_63>`` as its last 64 rows, and
``memory_converter.bin`` (an RMSNorm and two layers with an exact GELU between). The decoder is
``BroAlanTaps/PCC-Decoder-Llama3-8B-Instruct``, whose tokenizer has ``<mem>`` and ``</mem>``. A passage is read in
pieces of 256 tokens, each followed by ``256 // rate`` memory tokens. The rate stands in no file of theirs, so it is
read from the name (``-16x``). The Large form, an adapter on Llama 3, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor
from torch.nn import functional as F

from clara_model.checkpoint.tensor_files import load_pickle
from clara_model.errors import ClaraError
from trainers.evaluation.systems.soft_prompts import SoftPromptReader, load, load_tokenizer, need, states

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from trainers.evaluation.answerers import Budget

PIECE, MEMORY_TOKENS = 256, 64
DECODER = "BroAlanTaps/PCC-Decoder-Llama3-8B-Instruct"
CONVERTER = "memory_converter.bin"
PROMPT = "Question: {question}\n\nAnswer: "
ENDS = ("<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>")
EPSILON = 1e-6


class Pcc(SoftPromptReader):
    """``256 // rate`` vectors a piece. A folder ``decoder`` in that of the weights takes the published one's place."""

    system = "PCC"

    def __init__(self, name: str, clara: Clara, budget: Budget) -> None:
        super().__init__(clara, budget)
        rate = re.search(r"-(\d+)x$", str(name).rstrip("/"))
        if rate is None or not 0 < int(rate[1]) <= PIECE:
            raise ClaraError(f"{name} does not end with its rate, such as -16x, which stands in no file of PCC's")
        self._count = min(MEMORY_TOKENS, PIECE // int(rate[1]))
        self.compressor, folder = load(name, self)
        if self.compressor.config.model_type != "gpt2":
            raise ClaraError(f"{folder} is no GPT-2; of PCC only the Lite form is read")
        self._words = load_tokenizer(folder)
        self._first_memory = self.vocabulary(self.compressor) - MEMORY_TOKENS
        beside = Path(folder) / "decoder"
        self.decoder, decoder = load(str(beside) if beside.is_dir() else DECODER, self)
        self.tokenizer = load_tokenizer(decoder)
        known = self.tokenizer.get_vocab()
        if missing := {"<mem>", "</mem>"} - known.keys():
            raise ClaraError(f"the tokenizer in {decoder} has no {min(missing)}, so this is no decoder of PCC")
        self._around = [known["<mem>"]], [known["</mem>"]]
        self.ends = [known[word] for word in ENDS if word in known]
        converter = folder / CONVERTER
        found = load_pickle(converter if converter.is_file() else Path(hf_hub_download(str(name), CONVERTER)))
        parts = ("RMSNorm.weight", "dense_in.weight", "dense_in.bias", "dense_out.weight", "dense_out.bias")
        self._converter = [need(found, part, folder, self).to(self.device).float() for part in parts]
        size = self.compressor.config.hidden_size, self.decoder.config.hidden_size
        if self._converter[1].shape != (size[1], size[0]):
            held = tuple(self._converter[1].shape)
            raise ClaraError(f"{folder / CONVERTER} is another converter: dense_in has {held}, not {size[1], size[0]}")

    def compress(self, text: str) -> Tensor:
        """The converted states of each piece, ``[pieces * (256 // rate), D]``."""
        ids: list[int] = self._words(text, add_special_tokens=False)["input_ids"]
        memory = list(range(self._first_memory, self._first_memory + self._count))
        found = []
        for start in range(0, max(1, len(ids)), PIECE):
            piece = torch.tensor([*ids[start : start + PIECE], *memory], device=self.device)
            found.append(states(self.compressor, self.compressor.get_input_embeddings()(piece))[-self._count :])
        scale, first, first_bias, last, last_bias = self._converter
        state = torch.cat(found)
        normed = scale * state * torch.rsqrt(state.square().mean(-1, keepdim=True) + EPSILON)
        return F.linear(F.gelu(F.linear(normed, first, first_bias)), last, last_bias)

    def prompt(self, question: str, blocks: Sequence[Tensor]) -> Tensor:
        """bos, each piece's vectors between ``<mem>`` and ``</mem>``, and the question in plain words."""
        start, end = map(self.embed, self._around)
        pieces = [piece for block in blocks for piece in block.split(self._count)]
        slots = [part for piece in pieces for part in (start, piece.to(start.dtype), end)]
        asked = self.embed(self.text_ids(PROMPT.format(question=question)))
        return torch.cat([self.embed([self.tokenizer.bos_token_id]), *slots, asked])

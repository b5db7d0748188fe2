"""AutoCompressor (arXiv 2305.14788): a passage's states at 50 summary embeddings, put before the question.

``princeton-nlp/AutoCompressor-Llama-2-7b-6k`` and ``AutoCompressor-2.7b-6k`` (OPT): an ordinary causal language model
with the further tensor ``embed_summary.weight``; the same model compresses and writes. A passage longer than a segment
is read segment by segment, each after the summaries of those before it. An OPT gives summaries and soft prompt the
position of padding, and each segment's text its own from the first on; a Llama counts through.
Published are neither a prompt for questions nor the way of several passages: here each is compressed by itself, their
vectors follow each other, and the question is asked in plain words, without a first token, as their README does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.evaluation.systems.soft_prompts import SoftPromptReader, load, load_tokenizer, need, states, tensors

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from trainers.evaluation.answerers import Budget

PROMPT = "\n\nQuestion: {question}\nAnswer:"
SEGMENT = 2048
"""Tokens at most that are read at once, as in their evaluation."""
PADDING = -1
"""OPT's position of what has none: its rows begin with two for padding."""


class AutoCompressor(SoftPromptReader):
    """Summary vectors, ``[50 * segments, D]`` a passage."""

    system = "AutoCompressor"
    stops = ("\n",)

    def __init__(self, name: str, clara: Clara, budget: Budget) -> None:
        super().__init__(clara, budget)
        self.decoder, folder = load(name, self)
        self.tokenizer = load_tokenizer(folder)
        self.ends = (int(self.tokenizer.eos_token_id),)
        found = tensors(folder, lambda key: key.endswith("embed_summary.weight"))
        self._summary = need(found, "embed_summary.weight", folder, self).to(self.device)
        self._opt = self.decoder.config.model_type == "opt"

    def compress(self, text: str) -> Tensor:
        """The summaries of all segments, in order; a blank text has one segment without words."""
        ids = self.text_ids(text)
        count, before = len(self._summary), self._summary[:0].float()
        for start in range(0, max(1, len(ids)), SEGMENT):
            words = self.embed(ids[start : start + SEGMENT])
            rows = torch.cat([before.to(words.dtype), words, self._summary.to(words.dtype)])
            summaries = states(self.decoder, rows, self._placed(len(before), len(words), count))[-count:]
            before = torch.cat([before, summaries])
        return before

    def prompt(self, question: str, blocks: Sequence[Tensor]) -> Tensor:
        """The vectors, then the question."""
        words = self.embed(self.text_ids(PROMPT.format(question=question)))
        return torch.cat([*(block.to(words.dtype) for block in blocks), words])

    def positions(self, blocks: Sequence[Tensor], length: int) -> Tensor | None:
        """Of an OPT: padding's for the vectors, then 0, 1, 2 .. for the question."""
        before = sum(map(len, blocks))
        return self._placed(before, length - before, 0)

    def _placed(self, before: int, words: int, after: int) -> Tensor | None:
        if not self._opt:
            return None
        return torch.tensor([PADDING] * before + list(range(words)) + [PADDING] * after)

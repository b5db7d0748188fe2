"""xRAG (arXiv 2405.13792): a passage's retrieval embedding, projected into one input of a Mistral.

``Hannibal046/xrag-7b``: a Mistral with ``<xRAG>`` among its added tokens and ``projector.projector.{0,2}`` of two
layers with an exact GELU between; the embedder is ``Salesforce/SFR-Embedding-Mistral``. No instruction before a
passage, which is cut to 180 tokens; its embedding, the state at the last token, is not normalised.
Their script always adds a question mark, their tutorial never does: here one is added where the question has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clara_model.errors import ClaraError
from trainers.evaluation.systems.soft_prompts import SoftPromptReader, load, load_tokenizer, need, states, tensors

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from trainers.evaluation.answerers import Budget

MARK = "<xRAG>"
PROMPT = (
    "[INST] Refer to the background document and answer the questions:\n\nBackground: {documents}\n\n"
    "Question: {question} [/INST] The answer is:"
)
EMBEDDER = "Salesforce/SFR-Embedding-Mistral"
TOKENS = 180
"""Of a passage that are read, its first and last special token included."""


class XRag(SoftPromptReader):
    """One vector a passage. A folder ``embedder`` beside the weights is taken in the published embedder's place."""

    system = "xRAG"
    stops = ("\n", ".", ",")

    def __init__(self, name: str, clara: Clara, budget: Budget) -> None:
        super().__init__(clara, budget)
        self.decoder, folder = load(name, self)
        self.tokenizer = load_tokenizer(folder)
        self._mark = self.tokenizer.convert_tokens_to_ids(MARK)
        if self._mark in (None, self.tokenizer.unk_token_id):
            raise ClaraError(f"the tokenizer in {folder} has no {MARK}, so these are no weights of xRAG")
        self.ends = (int(self.tokenizer.eos_token_id),)
        found = tensors(folder, lambda key: key.startswith("projector."))
        self._layers = [
            [
                need(found, f"projector.projector.{layer}.{part}", folder, self).to(self.device).float()
                for part in ("weight", "bias")
            ]
            for layer in (0, 2)
        ]
        beside = Path(folder) / "embedder"
        self.embedder, embedder = load(str(beside) if beside.is_dir() else EMBEDDER, self, states_only=True)
        self._words = load_tokenizer(embedder)

    def embedding(self, text: str) -> Tensor:
        """The retrieval embedding of a passage, ``[1, D]``: bos, text and eos, the state of the last."""
        first = [] if self._words.bos_token_id is None else [self._words.bos_token_id]
        last = [self._words.eos_token_id]
        ids = self._words(text, add_special_tokens=False)["input_ids"][: TOKENS - len(first) - len(last)]
        rows = self.embedder.get_input_embeddings()(torch.tensor([*first, *ids, *last], device=self.device))
        return states(self.embedder, rows)[-1:]

    def compress(self, text: str) -> Tensor:
        """Its embedding, projected."""
        (first, first_bias), (last, last_bias) = self._layers
        return F.linear(F.gelu(F.linear(self.embedding(text), first, first_bias)), last, last_bias)

    def prompt(self, question: str, blocks: Sequence[Tensor]) -> Tensor:
        """The published one: marks in the passages' place, joined by spaces, then replaced by their vectors."""
        question = question.replace(MARK, MARK[1:-1])  # a question's own words are no mark
        question = question if question.endswith("?") else f"{question}?"
        text = PROMPT.format(documents=" ".join([MARK] * len(blocks)), question=question)
        ids = [self.tokenizer.bos_token_id, *self.text_ids(text)]
        rows = self.embed(ids).clone()
        if blocks:
            rows[torch.tensor(ids, device=self.device) == self._mark] = torch.cat(list(blocks)).to(rows.dtype)
        return rows

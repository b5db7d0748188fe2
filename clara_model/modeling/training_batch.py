"""`TrainingBatch`: the tensors of one training batch by name; each stage has those that it needs.

Shapes: ``U`` distinct documents of the batch, ``B`` questions, ``K`` candidates, ``k`` selected, ``M`` memory tokens,
``T`` ids, ``D`` hidden size. Leaves out how rows become a batch: the ``trainers`` package's collator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clara_model.errors import ClaraError


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Prompts with slots and the answers to learn, left-padded ``[B, T]`` each."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    """-100 where nothing is learned."""


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """One batch, as the collator makes it."""

    document_ids: Tensor | None = None
    """Left-padded encoder ids of the distinct documents ``[U, T]``."""
    document_mask: Tensor | None = None
    document_index: Tensor | None = None
    """Each question's candidates as rows of ``document_ids``, ``[B, K]``, -1 where there is none."""
    document_latents: Tensor | None = None
    """The documents' latents ``[U, M, D]`` instead of their ids (stages that rank, whose compressor is frozen)."""
    prompt_ids: Tensor | None = None
    """Prompt and answer with slots ``[B, T]``; not used by ``pretrain_retrieval``."""
    prompt_mask: Tensor | None = None
    labels: Tensor | None = None
    question_ids: Tensor | None = None
    """Left-padded encoder ids of the questions (stages that rank)."""
    question_mask: Tensor | None = None
    positives: Tensor | None = None
    """1 at gold candidates ``[B, K]`` (``pretrain_retrieval``; elsewhere for the log, and for a ranking loss that asks
    for labels)."""
    slot_order: Tensor | None = None
    """Which of the selected documents each slot holds ``[B, k]``; best first by default."""
    single_ids: Tensor | None = None
    """Prompt and answer with one document's slots ``[B, T]``, for ``ranking_loss="likelihood"``."""
    single_mask: Tensor | None = None
    single_labels: Tensor | None = None

    def given(self, *names: str) -> tuple[Tensor, ...]:
        """Tensors by name.

        Raises:
            ClaraError: one that the batch lacks.
        """
        found = tuple(getattr(self, name) for name in names)
        if any(tensor is None for tensor in found):
            raise ClaraError("the batch lacks tensors that this stage needs; was it collated for another stage?")
        return found

    def prompts(self) -> Sequences:
        """The prompts with all of a question's documents."""
        ids, mask, labels = self.given("prompt_ids", "prompt_mask", "labels")
        return Sequences(ids=ids, mask=mask, labels=labels)

    def singles(self) -> Sequences:
        """The prompts with one document each."""
        ids, mask, labels = self.given("single_ids", "single_mask", "single_labels")
        return Sequences(ids=ids, mask=mask, labels=labels)

    def present(self) -> Tensor:
        """Where there is a candidate ``[B, K]``."""
        (index,) = self.given("document_index")
        return index >= 0

    def ranked(self) -> Tensor:
        """How many questions have a gold candidate."""
        (positives,) = self.given("positives")
        return (positives.sum(dim=-1) > 0).sum()

    def counts(self) -> Tensor:
        """`step_counts` of this batch."""
        return step_counts({name: tensor for name, tensor in vars(self).items() if tensor is not None})


def step_counts(batch: Mapping[str, Tensor]) -> Tensor:
    """What a batch adds to the divisors of its step, ``[4]`` int64.

    Labels, documents in sequences, questions with a positive candidate, questions (sequences) in all.
    """
    labels, positives = batch.get("labels"), batch.get("positives")
    documents = (batch["document_index"] >= 0).sum()
    none = torch.zeros_like(documents)
    return torch.stack(
        [
            none if labels is None else (labels[:, 1:] != -100).sum(),
            documents,
            none if positives is None else (positives.sum(dim=-1) > 0).sum(),
            none + len(batch["document_index"]),
        ]
    )

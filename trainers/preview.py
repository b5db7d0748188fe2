"""The first batches of a run as text, ``preview.txt``: what the model is shown, and what it learns to write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from clara_model.modeling.tokens import Tokens
from trainers.data.sampling import TrainingItem, TrainingOrder

logger = logging.getLogger(__name__)

NAME = "preview.txt"
BATCHES = 3
SHOWN = 4
"""Sequences of a batch that are written out."""


def write(
    order: TrainingOrder,
    collate: Callable[[Sequence[TrainingItem]], dict[str, Tensor]],
    rows: int,
    tokens: Tokens,
    folder: Path,
) -> None:
    """Decode the first batches.

    Args:
        order: of the run.
        collate: makes its batches.
        rows: of a micro-batch.
        tokens: decode.
        folder: where ``preview.txt`` is written.
    """
    parts = []
    for number in range(min(BATCHES, -(-len(order) // rows))):
        places = range(number * rows, min((number + 1) * rows, len(order)))
        parts.append(f"=== batch {number + 1} ===\n{_batch(collate([order[place] for place in places]), tokens)}")
    (folder / NAME).write_text("\n".join(parts), encoding="utf-8", errors="replace")
    logger.info("the first %d batches are written out in %s", len(parts), folder / NAME)


def _batch(batch: dict[str, Tensor], tokens: Tokens) -> str:
    sizes = ", ".join(f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in batch.items())
    lines = [sizes]
    for row in range(min(SHOWN, len(batch["rows"]))):
        if "question_ids" in batch:
            lines.append(f"[question] {_text(batch['question_ids'][row], batch['question_mask'][row], tokens)}")
        if "positives" in batch:
            gold = batch["positives"][row].nonzero()[:, 0].tolist()
            lines.append(f"[candidates] {int((batch['document_index'][row] >= 0).sum())}, gold at {gold}")
        if "prompt_ids" in batch and row < len(batch["prompt_ids"]):
            lines += _prompt(batch["prompt_ids"][row], batch["prompt_mask"][row], batch["labels"][row], tokens)
    for row in range(min(SHOWN, len(batch.get("document_ids", [])))):
        lines.append(f"[document {row}] {_text(batch['document_ids'][row], batch['document_mask'][row], tokens)}")
    return "\n".join(lines) + "\n"


def _prompt(ids_T: Tensor, mask_T: Tensor, labels_T: Tensor, tokens: Tokens) -> list[str]:
    learned_T = labels_T != -100
    shown = _text(ids_T, mask_T * ~learned_T, tokens)
    return [f"[prompt] {shown}", f"[learned] {_text(ids_T, mask_T * learned_T, tokens)}"]


def _text(ids_T: Tensor, mask_T: Tensor, tokens: Tokens) -> str:
    """One line, special tokens as they are, the slots of a document in short."""
    text = str(tokens.tokenizer.decode(ids_T[mask_T.bool()].tolist()))
    return repr(text.replace(tokens.slots(1), "<SLOTS>").replace("".join(tokens.memory_tokens), "<MEMORY>"))

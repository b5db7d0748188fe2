"""Rows to the tensors of `clara_model.modeling.objectives.TrainingModel.forward`.

Each distinct document of a batch is tokenised and compressed once. All ids come from `Tokens`, so what is trained is
what is served. Shapes: ``U`` distinct documents, ``B`` sequences, ``K`` candidates, ``T`` ids.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

import torch
from torch import Tensor

from clara_model.checkpoint.prompts import Prompt
from clara_model.errors import ClaraError
from clara_model.modeling.objectives import Stage
from clara_model.modeling.ranking import positives_mask
from clara_model.modeling.tokens import Example, Tokens
from trainers.data.row import RANKED, Row, unfit
from trainers.data.sampling import TrainingItem

KEPT = 20_000
"""Tokenised texts kept for the next batch."""


@dataclass(frozen=True)
class _Sequence:
    """One training sequence before tokenising."""

    prompt: Prompt
    wording: int
    documents: int
    """With slots."""
    question: str | None
    answer: str
    row: Row
    expanded: int = 0
    """Documents before these that are read as text."""


@dataclass
class Collator:
    """Makes batches for one stage; the same items always give the same batch."""

    tokens: Tokens
    stage: Stage
    _: KW_ONLY
    top_k: int = 5
    """Documents in a prompt: all of a row's up to so many in stages 1 and 2, the selected ones in stage 3."""
    max_length: int = 2048
    """Ids of prompt and answer; an answer that does not fit loses its end."""
    candidates: int = 0
    """At most so many per question in stage 3, gold ones kept; 0 for all."""
    joined_pairs: bool = True
    """Stage 1 learns to write all pairs of a row after one prompt (published); otherwise, and in stage 2, each answer
    after its own question."""
    shuffled: float = 0.0
    """Share of rows whose documents are read in random order (stages 2 and 3)."""
    expand_share: float = 0.0
    """Share of rows whose first document, in one of four of them all, is read as text (stage 2)."""
    singles: bool = False
    """Stage 3 brings a prompt for one document too (``single_ids`` ..)."""
    seed: int = 0
    """Of the paraphrase wordings and of the orders."""
    _ids: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, items: Sequence[TrainingItem]) -> dict[str, Tensor]:
        """One batch; ``rows`` ``[B]`` beside the model's tensors says which rows are in it.

        Where questions lost their end, ``shortened`` ``[1]`` is their number; an unfit row is a `ClaraError`.
        """
        rows = [self._cut(item.row) for item in items]
        if self.stage == "instruct" and self.shuffled:
            rows = [_with(row, self._order(item, len(row.documents))) for item, row in zip(items, rows, strict=True)]
        place = {text: i for i, text in enumerate(dict.fromkeys(text for row in rows for text in row.documents))}
        batch = dict(zip(("document_ids", "document_mask"), self._encoded(list(place)), strict=True))
        if self.stage in RANKED:
            asked = self._encoded([row.questions[0] for row in rows])
            batch |= zip(("question_ids", "question_mask"), asked, strict=True)
            batch["document_index"] = _index([[place[text] for text in row.documents] for row in rows])
            width = batch["document_index"].shape[1]
            batch["positives"] = positives_mask([list(row.positives) for row in rows], width)
        if self.stage != "pretrain_retrieval":
            sequences = [part for item, row in zip(items, rows, strict=True) for part in self._sequences(item, row)]
            batch |= self._prompts_batch(sequences)
            if self.stage == "end_to_end":
                batch |= self._stage_3_extras(items, rows, sequences)
            else:
                slots = [[place[text] for text in part.row.documents[part.expanded :]] for part in sequences]
                batch["document_index"] = _index(slots)
        batch["rows"] = torch.tensor([item.index for item in items])
        return batch

    def _cut(self, row: Row) -> Row:
        fault = unfit(row, self.stage, self.top_k)
        if fault:
            raise ClaraError(f"{row.source}: {fault}")
        limit = self.candidates if self.stage in RANKED else self.top_k
        if not limit or len(row.documents) <= limit:
            return row
        first = list(row.positives[:limit]) if self.stage in RANKED else []
        chosen = sorted([*first, *[i for i in range(len(row.documents)) if i not in first][: limit - len(first)]])
        return _with(row, chosen)

    def _sequences(self, item: TrainingItem, row: Row) -> list[_Sequence]:
        prompts = self.tokens.config.prompts
        documents = len(row.documents)
        if row.kind == "paraphrase":
            # drawn from seed, epoch and row alone, so that a resumed run draws the same
            digest = hashlib.blake2b(f"{self.seed}/{item.epoch}/{item.index}".encode(), digest_size=8).digest()
            wording = int.from_bytes(digest, "big") % len(prompts.paraphrase.user)
            return [_Sequence(prompts.paraphrase, wording, documents, None, row.answers[0], row)]
        if self.stage == "pretrain" and self.joined_pairs:
            pairs = zip(row.questions, row.answers, strict=True)
            joined = "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs)
            return [_Sequence(prompts.question_answering, 0, documents, None, joined, row)]
        slots = min(self.top_k, documents) if self.stage == "end_to_end" else documents
        expanded = self._expanded(item, documents) if self.stage == "instruct" else 0
        return [
            _Sequence(prompts.answer, 0, slots - expanded, question, answer, row, expanded)
            for question, answer in zip(row.questions, row.answers, strict=True)
        ]

    def _stage_3_extras(
        self, items: Sequence[TrainingItem], rows: Sequence[Row], sequences: Sequence[_Sequence]
    ) -> dict[str, Tensor]:
        """Orders of the slots and prompts for one document, where they are asked for."""
        extras = {}
        if self.shuffled:
            orders = [self._order(item, part.documents) for item, part in zip(items, sequences, strict=True)]
            width = min(self.top_k, max(len(row.documents) for row in rows))
            extras["slot_order"] = torch.tensor([[*order, *range(len(order), width)] for order in orders])
        if self.singles:
            prompts = self._prompts_batch([replace(part, documents=1) for part in sequences])
            names = {"prompt_ids": "single_ids", "prompt_mask": "single_mask", "labels": "single_labels"}
            extras |= {names[name]: tensor for name, tensor in prompts.items() if name in names}
        return extras

    def _expanded(self, item: TrainingItem, documents: int) -> int:
        """Drawn like a wording: how many of a row's documents are read as text."""
        draw = random.Random(f"{self.seed}/{item.epoch}/{item.index}/expand")
        return draw.choice((1, 1, 1, documents)) if draw.random() < self.expand_share else 0

    def _order(self, item: TrainingItem, count: int) -> list[int]:
        """Drawn like a wording: as it is, or at random in a share of the rows."""
        draw = random.Random(f"{self.seed}/{item.epoch}/{item.index}/order")
        order = list(range(count))
        if draw.random() < self.shuffled:
            draw.shuffle(order)
        return order

    def _encoded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encoder ids of documents or questions and their mask; the ids of a recent text are kept."""
        new = {text: self.tokens.document_ids(text) for text in texts if text not in self._ids}
        rows = [new.get(text) or self._ids[text] for text in texts]
        self._ids |= new
        for text in list(self._ids)[: max(0, len(self._ids) - KEPT)]:
            del self._ids[text]
        return self.tokens.pad(rows)

    def _prompts_batch(self, sequences: Sequence[_Sequence]) -> dict[str, Tensor]:
        examples = [self._example(part) for part in sequences]
        ids, mask = self.tokens.pad([example.ids for example in examples])
        labels, _ = self.tokens.pad([example.labels for example in examples], -100)
        shortened = sum(example.shortened for example in examples)
        counted = {"shortened": torch.tensor([shortened])} if shortened else {}
        return {"prompt_ids": ids, "prompt_mask": mask, "labels": labels, **counted}

    def _example(self, part: _Sequence) -> Example:
        whole, most = self.stage == "read_text", self.max_length
        shown = part.row.documents[: None if whole else part.expanded]
        text, documents = "\n\n".join(shown) if shown else None, 0 if whole else part.documents
        example = self.tokens.example(part.prompt, documents, part.answer, most, part.question, part.wording, text)
        if all(label == -100 for label in example.labels):
            said = f"{part.row.source}: the prompt leaves no room for the answer in max_len ({most})"
            raise ClaraError(f"{said}; raise max_len or leave the row out")
        return example


def _with(row: Row, places: Sequence[int]) -> Row:
    """The row with these of its documents, in this order."""
    positives = tuple(places.index(place) for place in row.positives if place in places)
    return replace(row, documents=tuple(row.documents[place] for place in places), positives=positives)


def _index(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], dtype=torch.long)

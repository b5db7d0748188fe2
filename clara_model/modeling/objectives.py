"""What each training stage computes: one forward pass from a batch of ids to its losses.

Shapes: ``U`` distinct documents of the batch, ``B`` questions, ``K`` candidates, ``k`` selected, ``M`` memory tokens,
``T`` ids, ``D`` hidden size. Source: paper sections 3.1 (SCP: next token + 0.1 x alignment), 3.2 (instruct), 3.3 (end
to end through the straight-through top-k). Loops, optimizers and data are the ``trainers`` package's.

Every loss is a sum over what it is a mean of, divided by the count of the whole optimizer step, so micro-batches and
processes can split a step in any way: next token over labels, alignment over the documents of all sequences (one
document in two sequences counts twice, as in the published code), contrastive over questions with a positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clara_model.errors import ClaraError
from clara_model.modeling.model import ClaraModel
from clara_model.modeling.ranking import contrastive_loss, cosine_scores, straight_through_topk
from clara_model.modeling.teaching import Signs, row_likelihoods, target_loss

Stage = Literal["pretrain", "instruct", "end_to_end", "pretrain_retrieval", "read_text"]
TRAINED_ROLES: dict[Stage, tuple[str, ...]] = {
    "pretrain": ("compressor", "generator"),
    "instruct": ("compressor", "generator"),
    "end_to_end": ("query_reasoner", "generator"),
    "pretrain_retrieval": ("query_reasoner",),
    "read_text": ("generator",),
}


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


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a stage minimises."""

    stage: Stage
    alignment_weight: float = 0.1
    """Weight of the alignment (MSE) loss in ``pretrain`` and ``instruct`` (paper: 0.1); 0 leaves it out."""
    top_k: int = 5
    """Documents selected per question in ``end_to_end`` (paper: 5), capped at the candidates."""
    temperature: float = 0.02
    """Of the soft choice and of the contrastive softmax, on cosines (paper: 0.02)."""
    ranking_loss: Literal["", "labels", "likelihood"] = ""
    """``end_to_end``: what the ranking is taught from beside the answer's loss (paper: nothing): gold labels, or the
    generator's log-likelihood of the answer given each candidate alone."""
    ranking_weight: float = 0.0
    """Weight of that term once the warm-up, in which it is the only loss, is over."""

    def __post_init__(self) -> None:
        """Check every value."""
        if self.stage not in TRAINED_ROLES:
            raise ValueError(f"stage must be one of {', '.join(TRAINED_ROLES)}, got {self.stage!r}")
        if self.alignment_weight < 0 or self.top_k < 1 or self.temperature <= 0:
            raise ValueError(f"alignment_weight >= 0, top_k >= 1 and temperature > 0 are needed, got {self}")


class TrainingModel(nn.Module):
    """A `ClaraModel` with a stage's forward pass; exactly the stage's roles are trainable."""

    def __init__(self, model: ClaraModel, objective: Objective) -> None:
        """Set what trains.

        Raises:
            ClaraError: the checkpoint lacks a role that the stage trains.
        """
        super().__init__()
        self.model = model
        self.objective = objective
        self.temperature = objective.temperature
        """Of the soft choice now; a schedule may change it from step to step."""
        self.warming_up = False
        """Whether the ranking alone is taught now (``end_to_end``)."""
        self.signs = Signs()
        model.set_trainable(TRAINED_ROLES[objective.stage])

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, object] | None = None) -> None:
        """See `ClaraModel.gradient_checkpointing_enable`."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    activation_checkpointing_enable = gradient_checkpointing_enable

    def forward(
        self,
        document_ids: Tensor | None = None,
        document_mask: Tensor | None = None,
        document_index: Tensor | None = None,
        prompt_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        labels: Tensor | None = None,
        document_latents: Tensor | None = None,
        question_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        positives: Tensor | None = None,
        slot_order: Tensor | None = None,
        single_ids: Tensor | None = None,
        single_mask: Tensor | None = None,
        single_labels: Tensor | None = None,
        totals: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """One batch.

        Args:
            document_ids: left-padded encoder ids of the distinct documents ``[U, T]``.
            document_mask: their mask.
            document_index: each question's candidates as rows of ``document_ids``, ``[B, K]``, -1 where there is none.
            prompt_ids: left-padded prompt and answer with slots ``[B, T]``; not used by ``pretrain_retrieval``.
            prompt_mask: their mask.
            labels: ``[B, T]``, -100 where nothing is learned.
            document_latents: the documents' latents ``[U, M, D]`` instead of their ids (stages that rank, whose
                compressor is frozen).
            question_ids: left-padded encoder ids of the questions (stages that rank).
            question_mask: their mask.
            positives: 1 at gold candidates ``[B, K]`` (``pretrain_retrieval``; never used for a loss elsewhere).
            slot_order: which of the selected documents each slot holds ``[B, k]``; best first by default.
            single_ids: prompt and answer with one document's slots ``[B, T]``, for ``ranking_loss="likelihood"``.
            single_mask: their mask.
            single_labels: their labels.
            totals: `step_counts` of the whole optimizer step, ``[4]``, which the losses are divided by; this
                batch's own by default.

        Returns:
            ``loss`` and its parts (``lm_loss``, ``alignment_loss``, ``retrieval_loss``), and in stages that rank
            ``scores`` ``[B, K]`` and, in ``end_to_end``, ``topk`` ``[B, k]``; all but ``loss`` detached.
        """
        document_index = _given(document_index)
        if totals is None:
            own = {"document_index": document_index, "labels": labels, "positives": positives}
            totals = step_counts({name: tensor for name, tensor in own.items() if tensor is not None})
        totals = totals.where(totals > 0, torch.ones_like(totals))  # of what there is none, the sum is 0
        if self.objective.stage in ("pretrain", "instruct"):
            ids, mask = _given(document_ids), _given(document_mask)
            return self._answer_all(ids, mask, document_index, prompt_ids, prompt_mask, labels, totals)
        if self.objective.stage == "read_text":
            nothing = torch.empty(0, device=self.model.device)
            loss = self._next_token_loss(nothing, prompt_ids, prompt_mask, labels, totals[0])
            return {"loss": loss, "lm_loss": loss.detach()}
        latents = document_latents
        if latents is None:
            with torch.no_grad():
                latents, _ = self.model.encode("compressor", _given(document_ids), _given(document_mask))
        queries, _ = self.model.encode("query_reasoner", _given(question_ids), _given(question_mask))
        present = document_index >= 0
        candidates = latents[document_index.clamp_min(0)] * present[..., None, None].to(latents.dtype)
        scores = cosine_scores(queries, candidates).masked_fill(~present, float("-inf"))
        if self.objective.stage == "pretrain_retrieval":
            ranked = (_given(positives).sum(dim=-1) > 0).sum()
            loss = contrastive_loss(scores, _given(positives), self.objective.temperature) * ranked / totals[2]
            return {"loss": loss, "retrieval_loss": loss.detach(), "scores": scores.detach()}
        if self.training and positives is not None and scores.requires_grad:
            self.signs.watch(scores, positives)
        singles = (single_ids, single_mask, single_labels)
        taught = self._ranking_term(scores, candidates, present, positives, singles, totals)
        if self.warming_up and taught is not None:
            return {"loss": taught, **self._named(taught), "scores": scores.detach()}
        k = min(self.objective.top_k, scores.shape[1])
        weights, topk = straight_through_topk(scores, k, self.temperature)
        selected = torch.einsum("bjk,bkmd->bjmd", weights.to(candidates.dtype), candidates)
        if slot_order is not None:
            selected = selected.take_along_dim(slot_order[:, :, None, None], dim=1)
        used = torch.arange(k, device=present.device) < present.sum(dim=1, keepdim=True)
        loss = lm_loss = self._next_token_loss(selected[used], prompt_ids, prompt_mask, labels, totals[0])
        if taught is not None:
            loss = lm_loss + self.objective.ranking_weight * taught
        return {
            "loss": loss,
            "lm_loss": lm_loss.detach(),
            **self._named(taught),
            "scores": scores.detach(),
            "topk": topk,
        }

    def _named(self, taught: Tensor | None) -> dict[str, Tensor]:
        """The ranking's own loss under the name that says what it is divided by."""
        name = "retrieval_loss" if self.objective.ranking_loss == "labels" else "ranking_loss"
        return {} if taught is None else {name: taught.detach()}

    def _ranking_term(
        self,
        scores: Tensor,
        candidates: Tensor,
        present: Tensor,
        positives: Tensor | None,
        singles: tuple[Tensor | None, Tensor | None, Tensor | None],
        totals: Tensor,
    ) -> Tensor | None:
        """The loss that teaches the ranking directly, where it is asked for now."""
        source = self.objective.ranking_loss
        if not source or not self.training or not (self.warming_up or self.objective.ranking_weight):
            return None
        if source == "labels":
            ranked = (_given(positives).sum(dim=-1) > 0).sum()
            return contrastive_loss(scores, _given(positives), self.temperature) * ranked / totals[2]
        likelihoods = self._likelihoods(candidates, *(_given(part) for part in singles))
        target = likelihoods.masked_fill(~present, float("-inf")).softmax(dim=-1)
        return target_loss(scores, target, self.temperature) / totals[3]

    @torch.no_grad()
    def _likelihoods(self, candidates_BKMD: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Log-likelihood of each answer given each candidate alone ``[B, K]``; one generator pass for each place."""
        found = []
        for place in range(candidates_BKMD.shape[1]):
            logits, targets = self.label_logits(candidates_BKMD[:, place], ids, mask, labels)
            log_probs = -F.cross_entropy(logits.float(), targets, reduction="none")
            found.append(row_likelihoods(log_probs, labels))
        return torch.stack(found, dim=1)

    def _answer_all(
        self,
        document_ids: Tensor,
        document_mask: Tensor,
        document_index: Tensor,
        prompt_ids: Tensor | None,
        prompt_mask: Tensor | None,
        labels: Tensor | None,
        totals: Tensor,
    ) -> dict[str, Tensor]:
        """Stages 1 and 2: every document of a row is in its prompt, in order."""
        latents, states = self.model.encode("compressor", document_ids, document_mask)
        used = document_index[document_index >= 0]
        distances = alignment_losses(states, document_mask.to(states.device), self.model.config.memory_tokens)
        alignment = distances[used].sum() / totals[1]
        lm_loss = self._next_token_loss(latents[used], prompt_ids, prompt_mask, labels, totals[0])
        loss = lm_loss
        if self.objective.alignment_weight > 0:
            loss = lm_loss + self.objective.alignment_weight * alignment
        return {"loss": loss, "lm_loss": lm_loss.detach(), "alignment_loss": alignment.detach()}

    def _next_token_loss(
        self,
        blocks: Tensor,
        prompt_ids: Tensor | None,
        prompt_mask: Tensor | None,
        labels: Tensor | None,
        total_labels: Tensor,
    ) -> Tensor:
        """Cross-entropy at the labelled positions; logits are computed for no other position."""
        logits, targets = self.label_logits(blocks, _given(prompt_ids), _given(prompt_mask), _given(labels))
        return F.cross_entropy(logits.float(), targets, reduction="sum") / total_labels

    def label_logits(
        self, blocks: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits ``[L, V]`` that predict the ``L`` labelled tokens, row by row, and those tokens ``[L]``."""
        model = self.model
        embeds = model.fill_slots(prompt_ids, blocks)
        with model.roles.acting_as("generator"):
            states = model.hidden_states(embeds, prompt_mask.to(embeds.device))
            predicts = labels[:, 1:] != -100
            logits = model.base.get_output_embeddings()(states[:, :-1][predicts])
        return logits, labels[:, 1:][predicts]


def alignment_losses(states_NTD: Tensor, mask_NT: Tensor, memory_tokens: int) -> Tensor:
    """MSE between the mean state of a document's memory tokens and the mean of its other unpadded states.

    Args:
        states_NTD: last hidden states of an encoder pass, memory tokens last.
        mask_NT: 1 at real ids.
        memory_tokens: ``M``.

    Returns:
        ``[N]``, each averaged over the hidden size (paper section 3.1).
    """
    text_mask = mask_NT[:, :-memory_tokens, None].to(states_NTD.dtype)
    text_ND = (states_NTD[:, :-memory_tokens] * text_mask).sum(dim=1) / text_mask.sum(dim=1)
    return (states_NTD[:, -memory_tokens:].mean(dim=1) - text_ND).square().mean(dim=-1)


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ClaraError("the batch lacks tensors that this stage needs; was it collated for another stage?")
    return tensor

"""What each training stage computes: one forward pass from a batch of ids to its losses.

Shapes: ``U`` distinct documents of the batch, ``B`` questions, ``K`` candidates, ``k`` selected, ``M`` memory tokens,
``T`` ids, ``D`` hidden size. Source: paper sections 3.1 (SCP: next token + 0.1 x alignment), 3.2 (instruct), 3.3 (end
to end through the straight-through top-k). Loops, optimizers and data are the ``trainers`` package's.

Every loss is a sum over what it is a mean of, divided by the count of the whole optimizer step, so micro-batches and
processes can split a step in any way: next token over labels, alignment over the documents of all sequences (one
document in two sequences counts twice, as in the published code), contrastive over questions with a positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clara_model.errors import ClaraError
from clara_model.modeling.model import RoleModel
from clara_model.modeling.ranking import SCORES, contrastive_loss, straight_through_topk
from clara_model.modeling.training_batch import Sequences, TrainingBatch


def row_likelihoods(log_probs_L: Tensor, labels_BT: Tensor) -> Tensor:
    """Log-likelihood of each row's answer ``[B]``.

    Args:
        log_probs_L: of the labelled tokens, row by row.
        labels_BT: -100 where nothing is learned; the first position predicts nothing.
    """
    rows_L = (labels_BT[:, 1:] != -100).nonzero()[:, 0]
    return log_probs_L.new_zeros(len(labels_BT)).index_add(0, rows_L, log_probs_L)


def target_loss(scores_BK: Tensor, target_BK: Tensor, temperature: float) -> Tensor:
    """Sum over questions of the cross-entropy between a soft target and the soft choice.

    Args:
        scores_BK: cosines; ``-inf`` marks a candidate that is not there.
        target_BK: weights that sum to 1 in each row; 0 where there is no candidate.
        temperature: of the soft choice.
    """
    log_probs_BK = (scores_BK / temperature).log_softmax(dim=-1)
    return -torch.where(target_BK > 0, target_BK * log_probs_BK, torch.zeros_like(log_probs_BK)).sum()


class GradientSignMonitor:
    """How often the answer's gradient raises the score of the gold candidate, where it is first and where it is not."""

    def __init__(self) -> None:
        self.counts = torch.zeros(4)
        """Right and all gradients at gold candidates that rank first, then of the others."""

    def watch(self, scores_BK: Tensor, positives_BK: Tensor) -> None:
        """Count when the gradient comes; descent raises a score whose gradient is below 0."""
        gold_BK = positives_BK.to(scores_BK.device) > 0
        first_BK = scores_BK.detach() >= scores_BK.detach().amax(dim=1, keepdim=True)

        def count(gradient_BK: Tensor) -> None:
            moved_BK = gold_BK & (gradient_BK != 0)
            right_BK = moved_BK & (gradient_BK < 0)
            parts = [mask & place for place in (first_BK, ~first_BK) for mask in (right_BK, moved_BK)]
            self.counts = self.counts.to(gradient_BK.device) + torch.stack([part.sum() for part in parts])

        scores_BK.register_hook(count)

    def read(self) -> Tensor:
        """The counts so far ``[4]``; counting starts anew."""
        counts, self.counts = self.counts, torch.zeros_like(self.counts)
        return counts


Stage = Literal["pretrain", "instruct", "end_to_end", "pretrain_retrieval", "read_text"]
TRAINED_ROLES: dict[Stage, tuple[str, ...]] = {
    "pretrain": ("compressor", "generator"),
    "instruct": ("compressor", "generator"),
    "end_to_end": ("query_reasoner", "generator"),
    "pretrain_retrieval": ("query_reasoner",),
    "read_text": ("generator",),
}


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
    residual_gate: bool = True
    """Whether states at memory tokens may enter latents that have a residual; where not, its gate must be shut, the
    residual trains without it, and no document or question runs through the base model."""
    freeze_compressor: bool = False
    """``instruct``: the generator trains alone, on the latents as they are."""

    def __post_init__(self) -> None:
        if self.stage not in TRAINED_ROLES:
            raise ValueError(f"stage must be one of {', '.join(TRAINED_ROLES)}, got {self.stage!r}")
        if self.alignment_weight < 0 or self.top_k < 1 or self.temperature <= 0:
            raise ValueError(f"alignment_weight >= 0, top_k >= 1 and temperature > 0 are needed, got {self}")
        if not self.residual_gate and self.alignment_weight and self.stage in ("pretrain", "instruct"):
            raise ValueError("without residual_gate there are no states to align; set alignment_weight to 0")
        if self.freeze_compressor and (self.alignment_weight or self.stage != "instruct"):
            raise ValueError("freeze_compressor is for the stage instruct, with alignment_weight 0")

    @property
    def roles(self) -> tuple[str, ...]:
        """What trains."""
        return ("generator",) if self.freeze_compressor else TRAINED_ROLES[self.stage]


class TrainingModel(nn.Module):
    """A `RoleModel` with a stage's forward pass; exactly the stage's roles are trainable."""

    def __init__(self, model: RoleModel, objective: Objective) -> None:
        """Set what trains.

        Raises:
            ClaraError: the checkpoint lacks a role that the stage trains, or ``residual_gate`` is off and a role that
                the stage trains has no residual with a gate that is shut.
        """
        super().__init__()
        self.model = model
        self.objective = objective
        self.temperature = objective.temperature
        """Of the soft choice now; a schedule may change it from step to step."""
        self.warming_up = False
        """Whether the ranking alone is taught now (``end_to_end``)."""
        self.gradient_signs = GradientSignMonitor()
        model.set_trainable(objective.roles, residual_gate=objective.residual_gate)
        self.at_rest = self._at_rest()
        """Roles whose latents are their residual alone throughout: the gate is shut and does not train."""

    def _at_rest(self) -> frozenset[str]:
        residuals = self.model.residuals
        encoders, trained = set(self.model.memory.rows), set(self.objective.roles)
        if not self.objective.residual_gate:
            for role in sorted(encoders & trained):
                if not residuals.skips_base_model(role):
                    what = "whose gate is open" if role in residuals.of else "without a residual"
                    raise ClaraError(f"residual_gate cannot be off for a {role} {what}; leave residual_gate out")
            trained = set()
        return frozenset(role for role in encoders - trained if residuals.skips_base_model(role))

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, object] | None = None) -> None:
        """See `RoleModel.gradient_checkpointing_enable`."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    activation_checkpointing_enable = gradient_checkpointing_enable

    def forward(self, totals: Tensor | None = None, **tensors: Tensor) -> dict[str, Tensor]:
        """One batch.

        Args:
            totals: `step_counts` of the whole optimizer step, ``[4]``, which the losses are divided by; this
                batch's own by default.
            **tensors: of a `TrainingBatch`.

        Returns:
            ``loss`` and its parts (``lm_loss``, ``alignment_loss``, ``retrieval_loss``, ``ranking_loss``), and in
            stages that rank ``scores`` ``[B, K]`` and, in ``end_to_end``, ``topk`` ``[B, k]``; all but ``loss``
            detached.

        Raises:
            ClaraError: the batch lacks tensors that the stage needs.
        """
        batch = TrainingBatch(**tensors)
        batch.given("document_index")
        totals = batch.counts() if totals is None else totals
        totals = totals.where(totals > 0, torch.ones_like(totals))  # of what there is none, the sum is 0
        stage = self.objective.stage
        if stage == "read_text":
            return self._read_text(batch, totals)
        if stage in ("pretrain", "instruct"):
            return self._answer_all(batch, totals)
        scores, candidates = self._rank(batch)
        if stage == "pretrain_retrieval":
            return self._rank_by_labels(batch, scores, totals)
        return self._answer_best(batch, scores, candidates, totals)

    def _read_text(self, batch: TrainingBatch, totals: Tensor) -> dict[str, Tensor]:
        """The text reader: no slots."""
        nothing = torch.empty(0, device=self.model.device)
        loss = self._next_token_loss(nothing, batch.prompts(), totals)
        return {"loss": loss, "lm_loss": loss.detach()}

    def _answer_all(self, batch: TrainingBatch, totals: Tensor) -> dict[str, Tensor]:
        """Stages 1 and 2: every document of a row is in its prompt, in order."""
        ids, mask, index = batch.given("document_ids", "document_mask", "document_index")
        used = index[index >= 0]
        if "compressor" in self.at_rest and not self.objective.alignment_weight:
            latents = self.model.residual_latents("compressor", ids, mask)
            loss = self._next_token_loss(latents[used], batch.prompts(), totals)
            return {"loss": loss, "lm_loss": loss.detach()}
        latents, states = self.model.encode("compressor", ids, mask)
        distances = alignment_losses(states, mask.to(states.device), self.model.config.memory_tokens)
        alignment = distances[used].sum() / totals[1]
        loss = lm_loss = self._next_token_loss(latents[used], batch.prompts(), totals)
        if self.objective.alignment_weight > 0:
            loss = lm_loss + self.objective.alignment_weight * alignment
        return {"loss": loss, "lm_loss": lm_loss.detach(), "alignment_loss": alignment.detach()}

    def _rank(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Scores ``[B, K]``, -inf where there is no candidate, and the candidates' latents ``[B, K, M, D]``."""
        latents = batch.document_latents
        if latents is None:
            with torch.no_grad():
                latents = self._encoded("compressor", *batch.given("document_ids", "document_mask"))
        queries = self._encoded("query_reasoner", *batch.given("question_ids", "question_mask"))
        (index,), present = batch.given("document_index"), batch.present()
        candidates = latents[index.clamp_min(0)] * present[..., None, None].to(latents.dtype)
        scores = SCORES[self.model.config.ranking](queries, candidates)
        return scores.masked_fill(~present, float("-inf")), candidates

    def _encoded(self, role: str, ids: Tensor, mask: Tensor) -> Tensor:
        """Latents ``[N, M, D]``, without a pass of the base model for a role at rest."""
        if role in self.at_rest:
            return self.model.residual_latents(role, ids, mask)
        return self.model.encode(role, ids, mask)[0]

    def _rank_by_labels(self, batch: TrainingBatch, scores: Tensor, totals: Tensor) -> dict[str, Tensor]:
        """The contrastive stage: gold labels alone, no answer."""
        loss = self._contrastive(batch, scores, totals, self.objective.temperature)
        return {"loss": loss, "retrieval_loss": loss.detach(), "scores": scores.detach()}

    def _contrastive(self, batch: TrainingBatch, scores: Tensor, totals: Tensor, temperature: float) -> Tensor:
        (positives,) = batch.given("positives")
        return contrastive_loss(scores, positives, temperature) * batch.ranked() / totals[2]

    def _answer_best(
        self, batch: TrainingBatch, scores: Tensor, candidates: Tensor, totals: Tensor
    ) -> dict[str, Tensor]:
        """Stage 3: the answer from the best candidates, and what teaches the ranking beside it."""
        present = batch.present()
        if self.training and batch.positives is not None and scores.requires_grad:
            self.gradient_signs.watch(scores, batch.positives)
        taught = self._ranking_term(batch, scores, candidates, totals)
        found = {**self._named(taught), "scores": scores.detach()}
        if self.warming_up and taught is not None:
            return {"loss": taught, **found}
        k = min(self.objective.top_k, scores.shape[1])
        weights, topk = straight_through_topk(scores, k, self.temperature)
        selected = torch.einsum("bjk,bkmd->bjmd", weights.to(candidates.dtype), candidates)
        if batch.slot_order is not None:
            selected = selected.take_along_dim(batch.slot_order[:, :, None, None], dim=1)
        used = torch.arange(k, device=present.device) < present.sum(dim=1, keepdim=True)
        loss = lm_loss = self._next_token_loss(selected[used], batch.prompts(), totals)
        if taught is not None:
            loss = lm_loss + self.objective.ranking_weight * taught
        return {"loss": loss, "lm_loss": lm_loss.detach(), **found, "topk": topk}

    def _named(self, taught: Tensor | None) -> dict[str, Tensor]:
        """The ranking's own loss under the name that says what it is divided by."""
        name = "retrieval_loss" if self.objective.ranking_loss == "labels" else "ranking_loss"
        return {} if taught is None else {name: taught.detach()}

    def _ranking_term(self, batch: TrainingBatch, scores: Tensor, candidates: Tensor, totals: Tensor) -> Tensor | None:
        """The loss that teaches the ranking directly, where it is asked for now."""
        source = self.objective.ranking_loss
        if not source or not self.training or not (self.warming_up or self.objective.ranking_weight):
            return None
        if source == "labels":
            return self._contrastive(batch, scores, totals, self.temperature)
        likelihoods = self._likelihoods(candidates, batch.singles())
        target = likelihoods.masked_fill(~batch.present(), float("-inf")).softmax(dim=-1)
        return target_loss(scores, target, self.temperature) / totals[3]

    @torch.no_grad()
    def _likelihoods(self, candidates_BKMD: Tensor, single: Sequences) -> Tensor:
        """Log-likelihood of each answer given each candidate alone ``[B, K]``; one generator pass for each place."""
        found = []
        for place in range(candidates_BKMD.shape[1]):
            logits, targets = self.label_logits(candidates_BKMD[:, place], single)
            log_probs = -F.cross_entropy(logits.float(), targets, reduction="none")
            found.append(row_likelihoods(log_probs, single.labels))
        return torch.stack(found, dim=1)

    def _next_token_loss(self, blocks: Tensor, prompts: Sequences, totals: Tensor) -> Tensor:
        """Cross-entropy at the labelled positions; logits are computed for no other position."""
        logits, targets = self.label_logits(blocks, prompts)
        return F.cross_entropy(logits.float(), targets, reduction="sum") / totals[0]

    def label_logits(self, blocks: Tensor, prompts: Sequences) -> tuple[Tensor, Tensor]:
        """Logits ``[L, V]`` that predict the ``L`` labelled tokens, row by row, and those tokens ``[L]``."""
        model, labels = self.model, prompts.labels
        embeds = model.fill_slots(prompts.ids, blocks)
        with model.roles.acting_as("generator"):
            states = model.hidden_states(embeds, prompts.mask.to(embeds.device))
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

"""The three calls of the published model card, with its arguments and returns, on top of the pipeline.

This is the `ClaraModel` that ``clara_model`` offers. The calls stand here and not in `modeling.model` because they go
through the pipeline, which lies on a floor above the tensors.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from clara_model.checkpoint.config import MAX_NEW_TOKENS
from clara_model.inference import pipeline
from clara_model.inference.pipeline import Candidates
from clara_model.modeling.model import RoleModel
from clara_model.validation import (
    SAMPLING,
    Generation,
    check_count,
    check_instruction,
    check_sampling,
    check_stop,
    check_texts,
)


class ClaraModel(RoleModel):
    """The model on tensors with the calls of the published model card."""

    def generate_from_paraphrase(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[str]],
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        instruction: int | str | None = None,
        **options: Any,
    ) -> list[str]:
        """Paraphrase each row of documents from their latents.

        Args:
            questions: not used; kept as in the published call.
            documents: rows of texts, each row paraphrased together.
            max_new_tokens: most tokens to write.
            instruction: index of one of the checkpoint's wordings, or one of your own with ``{memory}`` in it;
                drawn by Python's ``random`` for each row by default.
            **options: as for `generate_ids`.
        """
        rows, (how, streamer) = self._candidates(documents), _how(max_new_tokens, options)
        prompt = self.config.prompts.paraphrase
        if instruction is None:
            indices = [random.choice(range(len(prompt.user))) for _ in rows]
        else:
            prompt, wording = check_instruction(instruction, prompt)
            indices = [wording] * len(rows)
        prompts = [self.tokens.prompt_ids(prompt, len(row), wording=i) for row, i in zip(rows, indices, strict=True)]
        blocks = [row.pick(range(len(row))).vectors for row in rows]
        return [one.text for one in pipeline.write(self, prompts, blocks, how, streamer=streamer)]

    def generate_from_text(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[str]],
        max_new_tokens: int = MAX_NEW_TOKENS,
        **options: Any,
    ) -> list[str]:
        """Answer each question from all of its documents, in the given order, compressed."""
        rows = self._candidates(documents)
        return self._answered(questions, rows, [range(len(row)) for row in rows], max_new_tokens, options)

    def generate_from_questions(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[str]],
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        generation_top_k: int | None = None,
        **options: Any,
    ) -> tuple[list[str], Tensor]:
        """Rank each question's candidates and answer from the best.

        Args:
            questions: ``B`` questions.
            documents: the candidates of each; counts may differ.
            max_new_tokens: most tokens to write.
            generation_top_k: documents to answer from, the checkpoint's by default; capped at the candidates.
            **options: as for `generate_ids`.

        Returns:
            answers, and the selected indices ``[B, k]`` best first (-1 where a question had fewer candidates).
        """
        k = check_count(self.config.top_k if generation_top_k is None else generation_top_k, "generation_top_k")
        rows, asked = self._candidates(documents), check_texts(questions, "question")
        _check_rows(asked, rows)
        queries = pipeline.encode(self, "query_reasoner", asked, "question")
        rankings = pipeline.rank(queries.vectors, rows, self.config.ranking)
        picks = [[one.index for one in ranking[:k]] for ranking in rankings]
        texts = self._answered(asked, rows, picks, max_new_tokens, options)
        width = max(len(pick) for pick in picks)
        return texts, torch.tensor([pick + [-1] * (width - len(pick)) for pick in picks])

    def _candidates(self, documents: Sequence[Sequence[str]]) -> list[Candidates]:
        if isinstance(documents, str) or not isinstance(documents, Iterable):
            raise TypeError(
                "documents must be a list of lists of strings, one list for each question; got "
                f"{type(documents).__name__}"
            )
        rows = [check_texts(row) for row in documents]
        if not rows:
            raise ValueError("expected at least one list of documents, got none")
        return pipeline.compress(self, rows)

    def _answered(
        self,
        questions: Sequence[str],
        rows: Sequence[Candidates],
        picks: Sequence[Sequence[int]],
        max_new_tokens: int,
        options: dict[str, Any],
    ) -> list[str]:
        asked = check_texts(questions, "question")
        _check_rows(asked, rows)
        selected = [row.pick(pick) for row, pick in zip(rows, picks, strict=True)]
        how, streamer = _how(max_new_tokens, options)
        return [one.text for one in pipeline.answer(self, asked, selected, how, streamer=streamer)]


def _check_rows(questions: Sequence[str], rows: Sequence[Candidates]) -> None:
    if len(rows) != len(questions):
        raise ValueError(f"need candidates for each question, got {len(rows)} rows for {len(questions)} questions")


def _how(max_new_tokens: int, options: dict[str, Any]) -> tuple[Generation, BaseStreamer | None]:
    """The published calls take any of transformers' generation arguments; those that `Clara` knows are checked."""
    known = check_sampling({name: value for name, value in options.items() if name in SAMPLING})
    others = {name: value for name, value in options.items() if name not in (*SAMPLING, "stop", "streamer")}
    seed = known.pop("seed", None)
    if "sampling_top_k" in known:
        known["top_k"] = known.pop("sampling_top_k")
    count, stop = check_count(max_new_tokens, "max_new_tokens"), check_stop(options.get("stop", ()))
    return Generation(count, stop, others | known, seed), options.get("streamer")

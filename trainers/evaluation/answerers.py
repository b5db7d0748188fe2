"""What answers are written from: latents, the same passages as text, text that LLMLingua-2 has shortened, or nothing.

Two controls say how much of an answer is read from the latents: those of another question's passages, and the right
ones with their slots in another order. Every reader uses the checkpoint's own answer prompt, the same base model and
the same bound on the prompt: passages that do not fit are left out from the end, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from clara_model.errors import ClaraError
from clara_model.inference.pipeline import Encoded, Written
from clara_model.validation import Generation
from trainers.evaluation.measuring import Meter
from trainers.evaluation.questions import Question
from trainers.evaluation.rankers import Ranked, Ranker
from trainers.evaluation.systems.llmlingua import LLMLingua2

if TYPE_CHECKING:
    from clara_model.checkpoint.options import GenerationKeywords
    from clara_model.inference.clara import Clara
    from clara_model.latents import Latents

LLMLINGUA = "microsoft/llmlingua-2-bert-base-multilingual-cased-meetingbank"


@dataclass(frozen=True)
class Read:
    """An answer and how much was read for it."""

    written: Written
    passages: int
    """Of the chosen ones, those that fitted the prompt."""
    text_tokens: int
    """Of these passages."""
    left_out: int = 0
    """Of the chosen ones, those that did not fit."""
    instead: tuple[str, ...] = ()
    """Passages whose latents were read in the place of the chosen ones' (`FromWrongLatents`)."""


@dataclass(frozen=True)
class Budget:
    """What all readers of one evaluation share."""

    top_k: int
    """Passages that are read."""
    max_new_tokens: int = 64
    """Of an answer."""
    prompt_tokens: int | None = None
    """Of a prompt at most, template and question included; by default what the base model reads."""
    copy: bool = False
    """Whether the checkpoint answers by a stretch of what it reads."""

    def room(self, clara: Clara) -> int:
        """Tokens that a prompt may have."""
        reads = clara.context_window
        return min(2**62 if reads is None else reads - self.max_new_tokens, self.prompt_tokens or 2**62)


class FromLatents:
    """The generator on the passages' latents, the best of them as text: what the checkpoint is for."""

    def __init__(self, clara: Clara, budget: Budget, expand: int | None = None) -> None:
        """``expand`` passages are read as text, as many as ``clara`` was loaded with by default."""
        from clara_model.inference.clara import Clara

        self.clara, self.budget = clara, budget
        self.writer = clara if expand is None else Clara(clara.model, expand=expand)
        self.expand = self.writer.shared.expand

    def read(self, questions: Sequence[Question], ranked: Sequence[Ranked], meter: Meter) -> list[Read]:
        counts = [self._fitting(question, one) for question, one in zip(questions, ranked, strict=True)]
        memories = [self._memory(*one, meter) for one in zip(questions, ranked, counts, strict=True)]
        latents = [memory for memory, _ in memories]
        how: GenerationKeywords = {"max_new_tokens": self.budget.max_new_tokens, "copy": self.budget.copy}
        with meter.phase("generate"):
            asked = [question.text for question in questions]
            answers = self.writer.answers(asked, latents, max(counts), rerank=False, **how)
        found = []
        for one, count, whole, (_, instead) in zip(answers, counts, ranked, memories, strict=True):
            usage = one.usage
            written = Written(one.text, usage.prompt_tokens, usage.completion_tokens, one.finish_reason)
            left_out = min(self.budget.top_k, len(whole.order)) - count
            found.append(Read(written, count, usage.text_tokens, left_out, instead))
        return found

    def _memory(self, question: Question, ranked: Ranked, count: int, meter: Meter) -> tuple[Latents, tuple[str, ...]]:
        """What the generator is given, and the passages whose latents are in the place of the chosen ones'."""
        return self._latents(question, ranked, count, meter), ()

    def _latents(self, question: Question, ranked: Ranked, count: int, meter: Meter) -> Latents:
        """Of the best passages: as the ranker has made them, or made now."""
        if ranked.latents is not None:
            return ranked.latents[:count]
        with meter.phase("compress"):
            return self.clara.compress(chosen_texts(question, ranked, count))

    def _fitting(self, question: Question, ranked: Ranked) -> int:
        tokens, prompt = self.clara.model.tokens, self.clara.model.config.prompts.answer
        count, room = min(self.budget.top_k, len(ranked.order)), self.budget.room(self.clara)
        if self.budget.prompt_tokens is None:
            return count  # then the checkpoint's own bound holds

        def length(k: int) -> int:
            shown = chosen_texts(question, ranked, min(self.expand, k))
            return len(tokens.prompt_ids(prompt, k - len(shown), question.text, text="\n\n".join(shown)))

        return most_that_fit(count, room, length)


class FromShuffledLatents(FromLatents):
    """A control: the right latents, the slots of each passage in a random order (seeded by the question)."""

    def _memory(self, question: Question, ranked: Ranked, count: int, meter: Meter) -> tuple[Latents, tuple[str, ...]]:
        latents = self._latents(question, ranked, count, meter)
        drawn_NM = torch.rand(latents.vectors.shape[:2], generator=torch.Generator().manual_seed(question.number))
        order_NM1 = drawn_NM.argsort(dim=1).unsqueeze(-1).to(latents.vectors.device)
        return replace(latents, vectors=latents.vectors.take_along_dim(order_NM1, dim=1)), ()


class FromWrongLatents(FromLatents):
    """A control: latents of what the next question about other documents reads; what is read as text stays right.

    A passage that this question reads, or whose document is gold for it, is not among them.
    """

    def __init__(
        self, clara: Clara, budget: Budget, expand: int | None, questions: Sequence[Question], ranker: Ranker
    ) -> None:
        """``questions``: all of the evaluation in their order; ``ranker``: chooses the passages of the others."""
        super().__init__(clara, budget, expand)
        self._questions, self._ranker = questions, ranker

    def _memory(self, question: Question, ranked: Ranked, count: int, meter: Meter) -> tuple[Latents, tuple[str, ...]]:
        pool, mine = question.pool, set(chosen_texts(question, ranked, count))
        gold = {pool.passages[place] for place in ranked.order if pool.documents[place] in question.positives}
        after = [*self._questions[question.number + 1 :], *self._questions[: question.number]]
        for other in (one for one in after if one.cluster != question.cluster):
            (found,) = self._ranker.rank([other], Meter(self.clara.model.device))
            texts = [text for text in chosen_texts(other, found, len(found.order)) if text not in mine | gold][:count]
            if texts:
                wrong = self.clara.compress([texts[place % len(texts)] for place in range(count)])
                return replace(self._latents(question, ranked, count, meter), vectors=wrong.vectors), tuple(texts)
        raise ClaraError("no other question reads other passages, so there is no wrong memory; leave out 'wrong'")


class FromText:
    """The base model, or a text reader's adapter, on the passages' text in the slots' place; none for a closed book."""

    def __init__(self, clara: Clara, budget: Budget, reader: Clara | None = None, *, closed: bool = False) -> None:
        """``reader`` is a checkpoint on the same base whose generator reads text (``clara-train --read_text``)."""
        self.clara, self.budget, self.reader, self.closed = clara, budget, reader, closed

    def read(self, questions: Sequence[Question], ranked: Sequence[Ranked], meter: Meter) -> list[Read]:
        with meter.phase("generate"):
            texts = [self.texts(question, one) for question, one in zip(questions, ranked, strict=True)]
            fitted = [self._fitted(question, some) for question, some in zip(questions, texts, strict=True)]
            written = self._write([ids for ids, _ in fitted])
        return [
            Read(one, k, sum(map(self.clara.count_tokens, some[:k])), len(some) - k)
            for one, (_, k), some in zip(written, fitted, texts, strict=True)
        ]

    def texts(self, question: Question, ranked: Ranked) -> list[str]:
        """What is read, best first."""
        return [] if self.closed else chosen_texts(question, ranked, self.budget.top_k)

    def _fitted(self, question: Question, texts: Sequence[str]) -> tuple[list[int], int]:
        model = (self.reader or self.clara).model

        def prompt(count: int) -> list[int]:
            memory = "\n\n".join(texts[:count])
            return model.tokens.text_prompt_ids(model.config.prompts.answer, memory, question.text)

        count = most_that_fit(len(texts), self.budget.room(self.clara), lambda k: len(prompt(k)))
        return prompt(count), count

    def _write(self, prompts: list[list[int]]) -> list[Written]:
        how = Generation(max_new_tokens=self.budget.max_new_tokens)
        if self.reader is None:
            return self.clara.call().write(prompts, None, how)
        model = self.reader.model
        nothing = Encoded(torch.empty(0, model.config.memory_tokens, model.base.config.hidden_size), ())  # no slots
        return self.reader.call().write(prompts, [nothing] * len(prompts), how)


class FromShortenedText(FromText):
    """The passages' text as LLMLingua-2 shortens it, to as many tokens as the latents have slots."""

    def __init__(self, clara: Clara, budget: Budget, reader: Clara | None = None, model: str = LLMLINGUA) -> None:
        super().__init__(clara, budget, reader)
        self._lingua = LLMLingua2(model, clara.model.device)
        self._rate = 1 / clara.model.config.compression_rate

    def texts(self, question: Question, ranked: Ranked) -> list[str]:
        count = self.clara.count_tokens
        return [self._lingua.shorten(text, self._rate, count) for text in super().texts(question, ranked)]


class Reader(Protocol):
    """What answers questions: those above, and `evaluation.systems`."""

    def read(self, questions: Sequence[Question], ranked: Sequence[Ranked], meter: Meter) -> list[Read]:
        """An answer to each question from the best of its passages."""
        ...


def chosen_texts(question: Question, ranked: Ranked, count: int) -> list[str]:
    """The best passages of a question, at most ``count``."""
    return [question.pool.passages[place] for place in ranked.order[:count]]


def most_that_fit(count: int, room: int, length: Callable[[int], int]) -> int:
    """Passages, at most ``count``, whose prompt fits the room; a `ClaraError` if not one does, or not the question."""
    least = min(1, count)
    for k in range(count, least - 1, -1):
        if length(k) <= room:
            return k
    raise ClaraError(
        f"a prompt with {least} passages has {length(least)} tokens and {room} fit; use a larger --prompt_tokens, or a "
        "smaller --max_new_tokens"
    )

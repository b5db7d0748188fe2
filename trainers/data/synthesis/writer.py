"""Everything about one passage: questions of two kinds and a paraphrase, each checked by the model.

Simple questions with answers, each pair judged; then, up to ``rounds`` times, supplementary questions for what is not
covered yet, until the model finds nothing more; a passage that is never covered is dropped. Then complex questions and
a paraphrase, judged likewise. Source: arXiv 2511.18659, data synthesis; here the judge is the writer's own model.
Rows as published: ``{"data_type": "qa" | "paraphrase", "question": [..], "answers": [..], "docs": [passage]}``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from clara_model.errors import ClaraError
from trainers.data.synthesis import prompts
from trainers.data.synthesis.journal import Outcome, Reply
from trainers.data.synthesis.parsing import MalformedReply, Pair, read_pairs, read_paraphrase, read_verdict
from trainers.data.synthesis.prompts import Messages

KINDS = ("simple", "complex", "paraphrase")
_T = TypeVar("_T")
Ask = Callable[..., Awaitable[Reply]]
"""Asks the model one thing about one passage: ``messages, *, temperature, max_tokens, attempt``."""


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """What is asked for, and how often."""

    kinds: tuple[str, ...] = KINDS
    """Some of ``simple``, ``complex``, ``paraphrase``."""
    rounds: int = 10
    """Supplementary rounds before a passage is dropped (paper: 10)."""
    attempts: int = 3
    """Times a reply that cannot be read, or a paraphrase that fails its check, is asked for."""
    temperature: float = 0.7
    """Of what is written; verdicts are asked for at 0."""
    max_tokens: int = 2048
    """The most tokens of one written reply."""
    verdict_tokens: int = 16
    """The most tokens of a verdict; a model that reasons first needs many more."""

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ClaraError(f"kinds must be some of {', '.join(KINDS)}, got {list(self.kinds)}")
        for name, least in (("rounds", 0), ("attempts", 1), ("max_tokens", 1), ("verdict_tokens", 1)):
            if getattr(self, name) < least:
                raise ClaraError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.temperature < 0:
            raise ClaraError(f"temperature must be at least 0, got {self.temperature}")


class DroppedError(Exception):
    """Nothing usable came of one kind of data; the message is the reason."""


class PassageWriter:
    """Writes and checks everything about one passage."""

    def __init__(self, document: str, ask: Ask, config: SynthesisConfig) -> None:
        self.document, self.config, self.outcome = document, config, Outcome()
        self._ask = ask

    async def write(self) -> Outcome:
        """Ask for all kinds, one after the other; what fails is left out with its reason."""
        steps = {"simple": self._simple, "complex": self._complex, "paraphrase": self._paraphrase}
        for kind in (kind for kind in KINDS if kind in self.config.kinds):
            try:
                self.outcome.rows.append(await steps[kind]())
            except DroppedError as error:
                self.outcome.dropped["passage" if kind == "simple" else kind] = str(error)
                if kind == "simple":
                    break
        return self.outcome

    async def _simple(self) -> dict[str, Any]:
        kept, refused = await self._checked(
            await self._read(prompts.simple_questions(self.document), read_pairs), [], []
        )
        for number in range(self.config.rounds + 1):
            request = prompts.supplementary_questions(self.document, kept, refused)
            found = await self._read(request, read_pairs, attempt=number * self.config.attempts + 1)
            if _without(found, kept) == []:
                if not kept:
                    raise DroppedError("no question passed the check")
                return self._row(kept)
            if number < self.config.rounds:
                self.outcome.count("rounds")
                kept, refused = await self._checked(found, kept, refused)
        raise DroppedError(f"not covered after {self.config.rounds} rounds")

    async def _complex(self) -> dict[str, Any]:
        kept, _ = await self._checked(await self._read(prompts.complex_questions(self.document), read_pairs), [], [])
        if not kept:
            raise DroppedError("no question passed the check")
        return self._row(kept)

    async def _paraphrase(self) -> dict[str, Any]:
        for number in range(self.config.attempts):
            text = await self._read(
                prompts.paraphrase(self.document),
                lambda reply: read_paraphrase(reply, self.document),
                attempt=number * self.config.attempts + 1,
                whole=True,
            )
            if await self._approved(prompts.judge_paraphrase(self.document, text)):
                return {"data_type": "paraphrase", "question": [], "answers": [text], "docs": [self.document]}
            self.outcome.count("paraphrases refused")
        raise DroppedError("no paraphrase passed the check")

    def _row(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        questions, answers = [pair.question for pair in pairs], [pair.answer for pair in pairs]
        return {"data_type": "qa", "question": questions, "answers": answers, "docs": [self.document]}

    async def _checked(
        self, found: Sequence[Pair], kept: Sequence[Pair], refused: Sequence[Pair]
    ) -> tuple[list[Pair], list[Pair]]:
        """Judge the new ones among some pairs: the pairs kept and refused by now."""
        new = _without(found, [*kept, *refused])
        self.outcome.count("pairs written", len(found))
        self.outcome.count("pairs repeated", len(found) - len(new))
        verdicts = await _all(self._approved(prompts.judge_pair(self.document, pair)) for pair in new)
        good = [pair for pair, verdict in zip(new, verdicts, strict=True) if verdict]
        bad = [pair for pair, verdict in zip(new, verdicts, strict=True) if not verdict]
        self.outcome.count("pairs refused", len(bad))
        return [*kept, *good], [*refused, *bad]

    async def _approved(self, messages: Messages) -> bool:
        """The judge's verdict; one that cannot be read is a no."""
        try:
            return await self._read(messages, read_verdict, temperature=0.0, max_tokens=self.config.verdict_tokens)
        except DroppedError:
            return False

    async def _read(
        self,
        messages: Messages,
        read: Callable[[str], _T],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        attempt: int = 1,
        whole: bool = False,
    ) -> _T:
        """Ask until the reply can be read, a bounded number of times; of pairs and verdicts the beginning is enough."""
        request, problem = messages, ""
        max_tokens = max_tokens or self.config.max_tokens
        for number in range(self.config.attempts):
            reply = await self._ask(
                request,
                temperature=self.config.temperature if temperature is None else temperature,
                max_tokens=max_tokens,
                attempt=attempt + number,
            )
            try:
                if whole and reply.cut_off:
                    raise MalformedReply("not whole")
                return read(reply.text)
            except MalformedReply as error:
                problem = f"cut off after {max_tokens} tokens" if reply.cut_off else str(error)
                self.outcome.count("replies that could not be read")
                request = prompts.again(messages, problem)
        times = f"{self.config.attempts} times" if self.config.attempts > 1 else "once"
        raise DroppedError(f"reply could not be read, {times}: {problem}")


async def _all(waiting: Iterable[Awaitable[_T]]) -> list[_T]:
    """All results; where one fails, the others are waited for first, so that no reply is lost."""
    found = await asyncio.gather(*waiting, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]


def _without(pairs: Sequence[Pair], others: Sequence[Pair]) -> list[Pair]:
    seen = {_wording(pair.question) for pair in others}
    new: dict[str, Pair] = {}
    for pair in pairs:
        if (wording := _wording(pair.question)) not in seen:
            new.setdefault(wording, pair)
    return list(new.values())


def _wording(question: str) -> str:
    return "".join(char for char in question.casefold() if char.isalnum())

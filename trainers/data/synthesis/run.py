"""SCP pretraining data from many passages and a chat model: concurrent, resumable, in the passages' order.

About one passage: simple questions with answers, each pair judged; then, up to ``rounds`` times, supplementary
questions for what is not covered yet, until the model finds nothing more; a passage that is never covered is dropped.
Then complex questions and a paraphrase, judged likewise. Source: arXiv 2511.18659, data synthesis; here the judge is
the writer's own model. Rows as published.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from clara_model.errors import ClaraError
from trainers.data.synthesis import prompts
from trainers.data.synthesis.client import Endpoint, PassageFailedError, RequestRefusedError
from trainers.data.synthesis.journal import Journal, Outcome, Reply, Spent
from trainers.data.synthesis.parsing import MalformedReply, Pair, read_pairs, read_paraphrase, read_verdict
from trainers.data.synthesis.prompts import Messages

KINDS = ("simple", "complex", "paraphrase")
_T = TypeVar("_T")
Ask = Callable[..., Awaitable[Reply]]
"""Asks the model one thing about one passage: ``messages, *, temperature, max_tokens, attempt``."""


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """What is asked for, and how often: flags of ``clara-data synthesize``, whose help says what they mean."""

    kinds: tuple[str, ...] = KINDS
    rounds: int = 10
    attempts: int = 3
    temperature: float = 0.7
    max_tokens: int = 2048
    verdict_tokens: int = 16

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ClaraError(f"kinds must be some of {', '.join(KINDS)}, got {list(self.kinds)}")
        for name, least in (("rounds", 0), ("attempts", 1), ("max_tokens", 1), ("verdict_tokens", 1)):
            if getattr(self, name) < least:
                raise ClaraError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.temperature < 0:
            raise ClaraError(f"temperature must be at least 0, got {self.temperature}")


OnPassage = Callable[[Outcome], None]
GIVE_UP = 8
"""Passages that fail one after the other, with no reply between, before the endpoint is taken to be gone."""
PAIRS_PER_PASSAGE = {"simple": 7.8, "complex": 4.6}
"""As published (paper, 2M passages); only `estimate` uses them."""


def passage_key(document: str) -> str:
    """The content hash that a passage is journalled under."""
    return hashlib.sha256(document.encode("utf-8", "replace")).hexdigest()[:24]


def settings_digest(config: SynthesisConfig, model: str) -> str:
    """A digest of everything that decides what is asked about a passage: settings, model and the prompts' wording."""
    pair = Pair("?", "!")
    wordings = [
        *(messages for _, messages in sample_requests("#", config)),
        prompts.supplementary_questions("#", [pair], [pair]),
        prompts.again(prompts.paraphrase("#"), "#"),
    ]
    values = json.dumps([asdict(config), model, wordings], sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:16]


@dataclass(kw_only=True)
class Unfinished:
    """Passages that have no outcome yet, and why."""

    failed: dict[str, str] = field(default_factory=dict)
    """By text: failed in this run; another run tries them again."""
    skipped: dict[str, str] = field(default_factory=dict)
    """By text: failed too often; not asked about again."""


async def synthesize(
    documents: Sequence[str],
    endpoint: Endpoint,
    config: SynthesisConfig,
    on_passage: OnPassage = lambda outcome: None,
    *,
    failures: int = 3,
) -> Unfinished:
    """Write everything about many passages, several at a time; what comes out is in the endpoint's journal.

    A passage that comes twice is worked on once; one that failed in ``failures`` runs is skipped. ``on_passage`` gets
    each outcome as it comes, also of passages finished before. Returns those that failed or were skipped. Raises
    `ClaraError`: the endpoint cannot be used, or `GIVE_UP` passages failed one after the other with no reply between;
    what has been done by then is in the journal, also the replies to what was under way.
    """
    run = _Run(endpoint, config, on_passage, failures)
    waiting = iter(dict.fromkeys(documents))
    workers = [asyncio.create_task(run.work(waiting)) for _ in range(endpoint.config.concurrency)]
    try:
        ended, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        for worker in ended:
            worker.result()
    finally:  # also where the run is interrupted: a second interruption ends it at once
        endpoint.closing = True
        await asyncio.gather(*workers, return_exceptions=True)
    return run.unfinished


class _Run:
    """Passages one after the other, by several workers; failures are counted."""

    def __init__(self, endpoint: Endpoint, config: SynthesisConfig, on_passage: OnPassage, failures: int) -> None:
        self.endpoint, self.config, self.on_passage, self.failures = endpoint, config, on_passage, failures
        self.unfinished = Unfinished()
        self._in_a_row, self._answered = 0, endpoint.spent.requests

    async def work(self, waiting: Iterator[str]) -> None:
        """Take passages until there are none."""
        journal = self.endpoint.journal
        for document in waiting:
            passage = passage_key(document)
            before = journal.failures(passage)
            if len(before) >= self.failures and not journal.is_finished(passage):
                self.unfinished.skipped[document] = before[-1]
                self.on_passage(Outcome(dropped={"passage": f"skipped after {len(before)} failures"}))
                continue
            try:
                self.on_passage(await _outcome(document, self.endpoint, self.config))
            except PassageFailedError as error:
                self._failed(document, error)

    def _failed(self, document: str, error: PassageFailedError) -> None:
        """Note it and go on, unless the endpoint answers nothing any more."""
        self.endpoint.journal.add_failure(passage_key(document), str(error))
        self.unfinished.failed[document] = str(error)
        self.on_passage(Outcome(dropped={"passage": str(error)}))
        answered = self.endpoint.spent.requests
        self._in_a_row = self._in_a_row + 1 if answered == self._answered else 1
        self._answered = answered
        if self._in_a_row >= GIVE_UP and not isinstance(error, RequestRefusedError):
            raise ClaraError(f"{self._in_a_row} passages failed one after the other, the last one so: {error}")


async def _outcome(document: str, endpoint: Endpoint, config: SynthesisConfig) -> Outcome:
    passage, journal = passage_key(document), endpoint.journal
    if journal.is_finished(passage):
        return journal.outcome(passage)

    def ask(messages: Messages, *, temperature: float, max_tokens: int, attempt: int = 1) -> Awaitable[Reply]:
        return endpoint.ask(passage, messages, temperature=temperature, max_tokens=max_tokens, attempt=attempt)

    outcome = await PassageWriter(document, ask, config).write()
    journal.finish(passage, outcome)
    return outcome


def finished_rows(documents: Sequence[str], journal: Journal) -> Iterator[dict[str, Any]]:
    """The rows of all finished passages in the passages' order, whatever the order they were finished in."""
    for document in dict.fromkeys(documents):
        if journal.is_finished(passage := passage_key(document)):
            yield from journal.outcome(passage).rows


def sample_requests(document: str, config: SynthesisConfig) -> list[tuple[str, Messages]]:
    """Every kind of request that one passage leads to, with stand-ins for what the model would have written."""
    pair = Pair("(a question that was written)", "(its answer)")
    requests = [
        ("simple", "simple questions", prompts.simple_questions(document)),
        ("simple", "supplementary questions", prompts.supplementary_questions(document, [pair], [])),
        ("complex", "complex questions", prompts.complex_questions(document)),
        ("simple complex", "check of a pair", prompts.judge_pair(document, pair)),
        ("paraphrase", "paraphrase", prompts.paraphrase(document)),
        ("paraphrase", "check of a paraphrase", prompts.judge_paraphrase(document, "(the paraphrase)")),
    ]
    return [(name, messages) for kinds, name, messages in requests if set(kinds.split()) & set(config.kinds)]


def estimate(documents: Sequence[str], config: SynthesisConfig, count: Callable[[Sequence[str]], list[int]]) -> Spent:
    """Roughly what a run will ask and spend, with one supplementary round; ``count`` gives the tokens of texts."""
    documents = list(dict.fromkeys(documents))
    pairs = sum(PAIRS_PER_PASSAGE[kind] for kind in config.kinds if kind in PAIRS_PER_PASSAGE)
    times = {"check of a pair": pairs, "supplementary questions": 2.0}
    text_tokens, requests, prompt_tokens = sum(count(documents)), 0.0, 0.0
    for what, messages in sample_requests("", config):
        frame = sum(count([message["content"] for message in messages]))
        requests += times.get(what, 1.0) * len(documents)
        prompt_tokens += times.get(what, 1.0) * (frame * len(documents) + text_tokens)
    tokens_of_a_pair, tokens_of_a_verdict = 30, 2
    rewritten = text_tokens if "paraphrase" in config.kinds else 0
    written = rewritten + tokens_of_a_pair * pairs * len(documents) + tokens_of_a_verdict * requests
    return Spent(requests=round(requests), prompt_tokens=round(prompt_tokens), completion_tokens=round(written))


class DroppedError(Exception):
    """Nothing usable came of one kind of data; the message is the reason."""


class PassageWriter:
    """Writes and checks everything about one passage."""

    def __init__(self, document: str, ask: Ask, config: SynthesisConfig) -> None:
        self.document, self._ask, self.config, self.outcome = document, ask, config, Outcome()

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
        kept, refused = await self._checked(await self._read(prompts.simple_questions(self.document), read_pairs))
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
        kept, _ = await self._checked(await self._read(prompts.complex_questions(self.document), read_pairs))
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
        self, found: Sequence[Pair], kept: Sequence[Pair] = (), refused: Sequence[Pair] = ()
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
    if failed := next((one for one in found if isinstance(one, BaseException)), None):
        raise failed
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

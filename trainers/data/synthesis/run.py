"""SCP pretraining data from many passages and a chat model: concurrent, resumable, in the passages' order.

Source: arXiv 2511.18659, data synthesis. What is asked about one passage: `synthesis.writer`; how the model
is asked and what is remembered: `synthesis.client`, `synthesis.journal`. Leaves out reading and
splitting files (`clara_model.documents.passages`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from clara_model.errors import ClaraError
from trainers.data.synthesis import prompts
from trainers.data.synthesis.client import Endpoint, PassageFailedError, RequestRefusedError
from trainers.data.synthesis.journal import Journal, Outcome, Reply, Spent
from trainers.data.synthesis.parsing import Pair
from trainers.data.synthesis.prompts import Messages
from trainers.data.synthesis.writer import PassageWriter, SynthesisConfig

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
    each outcome as it comes, also of passages finished before. Returns those that failed or were skipped.

    Raises:
        ClaraError: the endpoint cannot be used, or `GIVE_UP` passages failed one after the other with no reply between;
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
    """Roughly what a run will ask and spend: as many pairs per passage as published, one supplementary round.

    ``count`` gives the tokens of texts.
    """
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
    completion_tokens = rewritten + tokens_of_a_pair * pairs * len(documents) + tokens_of_a_verdict * requests
    return Spent(
        requests=round(requests), prompt_tokens=round(prompt_tokens), completion_tokens=round(completion_tokens)
    )

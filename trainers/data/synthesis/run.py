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
from dataclasses import asdict, dataclass
from typing import Any

from trainers.data.synthesis import prompts
from trainers.data.synthesis.client import Endpoint, RequestRefusedError
from trainers.data.synthesis.journal import Journal, Outcome, Reply
from trainers.data.synthesis.parsing import Pair
from trainers.data.synthesis.prompts import Messages
from trainers.data.synthesis.writer import PassageWriter, SynthesisConfig

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


async def synthesize(
    documents: Sequence[str],
    endpoint: Endpoint,
    config: SynthesisConfig,
    on_passage: Callable[[Outcome], None] = lambda outcome: None,
) -> int:
    """Write everything about many passages, several at a time; what comes out is in the endpoint's journal.

    Args:
        documents: the passages; one that comes twice is worked on once.
        endpoint: open, with its open journal.
        config: what is asked for.
        on_passage: called with each outcome as it comes, also of passages that were finished before.

    Returns:
        How many passages the endpoint refused. They are not journalled as finished, so another run tries them again.

    Raises:
        ClaraError: the endpoint cannot be used; what has been done by then is in the journal.
    """
    waiting = iter(dict.fromkeys(documents))
    refused = 0

    async def work() -> None:
        nonlocal refused
        for document in waiting:
            try:
                on_passage(await _outcome(document, endpoint, config))
            except RequestRefusedError as error:
                refused += 1
                on_passage(Outcome(dropped={"passage": str(error)}))

    workers = [asyncio.create_task(work()) for _ in range(endpoint.config.concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return refused


async def _outcome(document: str, endpoint: Endpoint, config: SynthesisConfig) -> Outcome:
    """A passage's outcome, from the journal or worked out now."""
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


# -- before anything is asked -----------------------------------------------------------------------------------


def sample_requests(document: str, config: SynthesisConfig) -> list[tuple[str, Messages]]:
    """Every kind of request that one passage leads to, with stand-ins for what the model would have written."""
    pair = Pair("(a question that was written)", "(its answer)")
    requests: list[tuple[str, Messages]] = []
    if "simple" in config.kinds:
        requests.append(("simple questions", prompts.simple_questions(document)))
        requests.append(("supplementary questions", prompts.supplementary_questions(document, [pair], [])))
    if "complex" in config.kinds:
        requests.append(("complex questions", prompts.complex_questions(document)))
    if {"simple", "complex"} & set(config.kinds):
        requests.append(("check of a pair", prompts.judge_pair(document, pair)))
    if "paraphrase" in config.kinds:
        requests.append(("paraphrase", prompts.paraphrase(document)))
        requests.append(("check of a paraphrase", prompts.judge_paraphrase(document, "(the paraphrase)")))
    return requests


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will roughly ask and spend."""

    passages: int
    requests: int
    prompt_tokens: int
    completion_tokens: int


def estimate(
    documents: Sequence[str], config: SynthesisConfig, count: Callable[[Sequence[str]], list[int]]
) -> Estimate:
    """A rough guess, with as many pairs per passage as published and one supplementary round.

    Args:
        documents: the passages.
        config: what is asked for.
        count: tokens of texts.
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
    return Estimate(
        passages=len(documents),
        requests=round(requests),
        prompt_tokens=round(prompt_tokens),
        completion_tokens=round(completion_tokens),
    )

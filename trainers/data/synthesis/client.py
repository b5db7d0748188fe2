"""Asking a chat model behind an OpenAI-compatible endpoint: limited, retried, counted, never twice for the same thing.

The ``openai`` client (optional) makes the requests and repeats those that fail with 408, 409, 429 or 5xx or do not
connect, waiting as the endpoint says; a completion without a choice is asked for again here. Every HTTP request waits
for its turn under the rate limit. What is asked stands in the journal before it is sent, and the request carries its
key (``Idempotency-Key``), so an endpoint that heeds it is not paid twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from clara_model.errors import ClaraError, needing
from trainers.data.synthesis.journal import Journal, Reply, Spent
from trainers.data.synthesis.prompts import Messages

NO_KEY = "none"
"""Sent where no key is given: servers on one's own machine take any."""
MALFORMED_PAUSE = 0.5
"""Seconds before a completion without a choice is asked for again, doubled each time up to 8."""


class PassageFailedError(ClaraError):
    """This one request failed on an endpoint that has answered others; the next passage may do better."""


class RequestRefusedError(PassageFailedError):
    """The endpoint refused this one request (400, 413, 422), e.g. because of its length or its content."""


class StoppedError(ClaraError):
    """The run is ending; nothing new is asked."""


class _MalformedCompletionError(ClaraError):
    """The endpoint answered with 200 and something that is no completion, e.g. no choices or an error body."""


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Where to ask, and how hard: flags of ``clara-data synthesize``, whose help says what they mean."""

    base_url: str
    model: str
    api_key: str = field(default=NO_KEY, repr=False)
    concurrency: int = 8
    requests_per_minute: float | None = None
    retries: int = 6
    timeout: float = 300.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ClaraError(f"base_url must start with http:// or https://, got {self.base_url!r}")
        if not self.model:
            raise ClaraError("the model's name is empty; give the name the endpoint knows it by")
        for name in ("concurrency", "timeout", "requests_per_minute"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ClaraError(f"{name} must be above 0, got {value}")
        if self.retries < 0:
            raise ClaraError(f"retries must be at least 0, got {self.retries}")


class Pace:
    """Lets requests start at most so often: evenly spread, no burst after a pause. No limit where None."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until the next request may start."""
        start = max(time.monotonic(), self._next)
        self._next = start + self._gap
        await asyncio.sleep(max(0.0, start - time.monotonic()))


class Endpoint:
    """An open endpoint with the journal that remembers its replies. Use with ``async with``."""

    def __init__(self, config: EndpointConfig, journal: Journal) -> None:
        with needing("synthesize", "openai", "data"):
            import openai
        self.config, self.journal = config, journal
        self.spent = Spent()
        """What this run asked; the journal has the sum over all runs."""
        self.http_requests = 0
        """With repeated ones."""
        self.closing = False
        """Ask nothing new; what is under way may end."""
        self._openai = openai
        self._pace = Pace(config.requests_per_minute)
        self._free = asyncio.Semaphore(config.concurrency)
        self._client = openai.AsyncOpenAI(
            api_key=config.api_key,
            base_url=config.base_url,
            max_retries=config.retries,
            timeout=config.timeout,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._before_request]}),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(
        self, passage: str, messages: Messages, *, temperature: float, max_tokens: int, attempt: int = 1
    ) -> Reply:
        """The reply to a request about a passage (its key), from the journal or from the endpoint.

        ``attempt`` counts requests with the same words whose reply was of no use, from 1. Raises `PassageFailedError`
        where the endpoint has answered others, `StoppedError` where the run is ending, and a `ClaraError` where it
        cannot be reached, does not know the model or the key, or answers nothing.
        """
        body = {"messages": messages, "temperature": temperature, "max_tokens": max_tokens, **self.config.extra_body}
        body = {"model": self.config.model, **{name: value for name, value in body.items() if value is not None}}
        key = request_key(body, attempt)
        if (known := self.journal.reply(passage, key)) is not None:
            return known
        async with self._free:
            if self.closing:
                raise StoppedError("the run is ending")
            self.journal.add_question(passage, key)
            reply = await self._answered(body, key)
        self.journal.add_reply(passage, key, reply)
        self.spent.add(reply)
        return reply

    async def _before_request(self, _: object) -> None:
        await self._pace.turn()
        self.http_requests += 1

    async def _answered(self, body: Mapping[str, Any], key: str) -> Reply:
        """The reply, asked for again where what comes back is no completion."""
        for attempt in range(self.config.retries + 1):
            try:
                return await self._send(body, key)
            except _MalformedCompletionError as error:
                if attempt == self.config.retries:
                    raise self._of_this_passage(error) from error
            await asyncio.sleep(min(8.0, MALFORMED_PAUSE * 2**attempt))
        raise AssertionError("a request is sent at least once")

    def _of_this_passage(self, error: ClaraError) -> ClaraError:
        """A failure that is this passage's alone, where the endpoint has answered anything."""
        return PassageFailedError(str(error)) if self.journal.spent.requests else error

    async def _send(self, body: Mapping[str, Any], key: str) -> Reply:
        options = {name: value for name, value in body.items() if name not in ("model", "messages")}
        try:
            completion = await self._client.chat.completions.create(
                model=body["model"],
                messages=body["messages"],
                extra_body=options,
                extra_headers={"Idempotency-Key": key},
            )
        except self._openai.APIStatusError as error:
            raise self._explained(error) from error
        except self._openai.APITimeoutError as error:
            said = f"{self.config.base_url} did not reply within {self.config.timeout:g} s; give a longer --timeout, "
            raise self._of_this_passage(ClaraError(f"{said}then run again to go on")) from error
        except self._openai.APIConnectionError as error:
            cause = error.__cause__ or error
            said = f"{self.config.base_url} cannot be reached ({cause})"
            raise ClaraError(f"{said}; check --base-url and run again to go on") from error
        except (self._openai.OpenAIError, ValueError) as error:
            said = f"{self.config.base_url} does not answer in the form of a chat completion ({error})"
            raise _MalformedCompletionError(said) from error
        return _reply(completion, self.config.base_url)

    def _explained(self, error: Any) -> ClaraError:
        said = re.sub(r"^Error code: \d+ - ", "", " ".join(str(error.message).split()))[:300]
        if error.status_code in (400, 413, 422) and self.journal.spent.requests:
            return RequestRefusedError(f"refused by the endpoint ({error.status_code})")
        address = "check --base-url (it often ends in /v1) and --model"
        hints = {401: "check the key", 403: "check the key", 404: address}
        hint = hints.get(error.status_code, "run again to go on" if error.status_code >= 429 else "see --extra-body")
        failure = ClaraError(f"{self.config.base_url} answered with {error.status_code}: {said}; {hint}")
        return self._of_this_passage(failure) if error.status_code >= 500 else failure


def request_key(body: Mapping[str, Any], attempt: int) -> str:
    """The content hash a reply is kept under."""
    text = json.dumps([body, attempt], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def _reply(completion: Any, base_url: str) -> Reply:
    """The parts that matter of a chat completion; some servers leave out the usage, or answer with something else."""
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        said = getattr(completion, "error", None)
        raise _MalformedCompletionError(
            f"{base_url} does not answer with chat completions{f' ({said})'[:200] if said else ''}; check --base-url "
            "(it often ends in /v1)"
        )
    usage = getattr(completion, "usage", None)
    return Reply(
        text=choices[0].message.content or "",
        cut_off=choices[0].finish_reason == "length",
        prompt_tokens=getattr(usage, "prompt_tokens", None) or 0,
        completion_tokens=getattr(usage, "completion_tokens", None) or 0,
    )

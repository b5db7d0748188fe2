"""The guard in front of the server's routes: its bounds, who may ask, what is counted, and how errors are told."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clara_integrations.server import shapes
from clara_model.errors import EngineError, shown
from clara_model.inference.results import Answer

logger = logging.getLogger(__name__)

LEFT = 499
"""The status that servers log where the client has left."""
_OPEN = ("/health", "/", "/docs", "/openapi.json")
"""Asked without a key; they show nothing of what is kept here."""
_COUNTED = ("/rerank", "/v1/", "/v2/")
_ROUTES = {"/rerank", "/v1/rerank", "/v2/rerank", "/v1/chat/completions", "/v1/embeddings", "/v1/search"}
_ROUTES |= {"/v1/models", "/metrics", *_OPEN}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bounds of a server."""

    api_key: str | None = None
    """That every request must bring (``Authorization: Bearer ..``); None: anybody may ask."""
    queue: int = 256
    """Requests under way, those that wait for the model included; one more is sent away with 429."""
    timeout: float = 120.0
    """Seconds of one request; its generation ends with it."""
    max_body: int = 8 << 20
    """Bytes of a request."""
    max_documents: int = 1000
    """Of one request."""
    max_top_k: int = 64
    """Documents to answer from."""
    max_new_tokens: int = 1024
    """Longest answer that may be asked for."""


class Meters:
    """What ``/metrics`` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make = partial(Counter, registry=self.registry)
        self.requests = make("clara_requests", "Requests by route and status", ["route", "status"])
        self.tokens = make("clara_tokens", "Tokens of prompts (text, slots) and answers", ["kind"])
        self.saved = make("clara_text_tokens_replaced", "Text tokens that slots have stood for")
        self.seconds = Histogram("clara_request_seconds", "Seconds of a request", ["route"], registry=self.registry)
        self.phases = make("clara_phase_seconds", "Seconds of the model by phase", ["phase"])
        self.under_way = Gauge("clara_requests_under_way", "Requests under way", registry=self.registry)

    def count(self, answer: Answer) -> None:
        """An answer's tokens and seconds."""
        used = answer.usage
        self.tokens.labels("text").inc(used.prompt_tokens - used.slots)
        self.tokens.labels("slots").inc(used.slots)
        self.tokens.labels("answer").inc(used.completion_tokens)
        self.saved.inc(used.text_tokens - used.expanded_tokens)
        for phase in ("compress", "query", "rank", "generate"):
            self.phases.labels(phase).inc(getattr(answer.timings, phase))


class Guard:
    """Key, size, queue and time of each request, and what is counted of it."""

    def __init__(self, app: ASGIApp, settings: Settings, meters: Meters) -> None:
        self._app, self._settings, self._meters = app, settings, meters
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it, and count it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path, start = scope["path"], time.monotonic()
        counted = path.startswith(_COUNTED) and path != "/v1/models"
        refused = self._refused(scope, counted)
        if refused is not None:
            self._meters.requests.labels(_route(path), refused.status_code).inc()
            return await refused(scope, receive, send)
        scope["clara_until"] = start + self._settings.timeout
        status = 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._under_way += counted
        self._meters.under_way.set(self._under_way)
        try:
            await self._app(scope, self._bounded(receive), told)
        finally:
            self._under_way -= counted
            self._meters.under_way.set(self._under_way)
            self._meters.requests.labels(_route(path), status).inc()
            self._meters.seconds.labels(_route(path)).observe(time.monotonic() - start)

    def _refused(self, scope: Scope, counted: bool) -> Response | None:
        headers = {name: value for name, value in scope["headers"]}
        key = self._settings.api_key
        if key is not None and scope["path"] not in _OPEN:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not secrets.compare_digest(given, key.encode()):
                sentence = "this server wants its key: Authorization: Bearer KEY"
                return _reply(sentence, 401, {"WWW-Authenticate": "Bearer"})
        size = headers.get(b"content-length", b"0")
        if size.isdigit() and int(size) > self._settings.max_body:
            return _reply(self._too_large, 413)
        if counted and self._under_way >= self._settings.queue:
            sentence = f"{self._under_way} requests are under way, which is all that this server takes; ask again soon"
            return _reply(sentence, 429, {"Retry-After": "1"})
        return None

    @property
    def _too_large(self) -> str:
        return f"a request may have {self._settings.max_body} bytes on this server; send less at a time"

    def _bounded(self, receive: Receive) -> Receive:
        """A body whose length nobody has told is counted as it comes."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._settings.max_body:
                raise HTTPException(413, self._too_large)
            return message

        return counted


def _route(path: str) -> str:
    """A path as it is counted: without the names of documents, which are many."""
    if path.startswith("/v1/documents"):
        return "/v1/documents"
    return path if path in _ROUTES else "other"


def told(error: BaseException) -> tuple[str, int]:
    """An error in a sentence, and its status."""
    if isinstance(error, HTTPException):
        return str(error.detail), error.status_code
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        what = f"{first['msg'].removeprefix('Value error, ')}, got {shown(first.get('input'))}"
        return (f"{where}: {what}" if where else what), 400
    if isinstance(error, (ValueError, TypeError)):
        return " ".join(str(error).split()), 502 if isinstance(error, EngineError) else 400
    logger.error("a request failed", exc_info=error)
    return "the server failed; its log says how", 500


def _reply(sentence: str, status: int, headers: dict[str, str] | None = None, *, tei: bool = False) -> JSONResponse:
    return JSONResponse(shapes.error_reply(sentence, status, tei=tei), status, headers)


def add_errors(app: FastAPI) -> None:
    """Have every error told in one sentence, in the shape that the route's clients read."""

    async def reply(request: Request, error: Exception) -> JSONResponse:
        body = error.body if isinstance(error, RequestValidationError) and isinstance(error.body, dict) else {}
        tei = getattr(request.state, "tei", False) or (request.url.path == "/rerank" and "texts" in body)
        return _reply(*told(error), tei=tei)

    for kind in (ValueError, TypeError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, reply)

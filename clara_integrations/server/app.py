"""The server: routes that call a `Clara` and nothing else, behind a guard that keeps to the bounds in `Settings`.

What blocks runs in threads of the server's own, as many as requests may be under way, so callers wait for the model
together and share its batches. A client that leaves ends its generation.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from clara_integrations.server import shapes
from clara_integrations.server.guard import LEFT, Guard, Meters, Settings, add_errors, told
from clara_integrations.server.shapes import Chat, ChatReply, Documents, Embeddings, Rerank, Search, Source
from clara_model.components.streams import read_stream
from clara_model.documents.corpus import compress_documents, digest_of
from clara_model.documents.document import Document
from clara_model.errors import ClaraError, shown
from clara_model.inference.clara import AnswerStream, Clara
from clara_model.inference.results import Answer
from clara_model.latents import Latents
from clara_model.search.store_search import document_latents
from clara_model.store.cache import durable
from clara_model.store.protocol import DurableStore, content_key
from clara_model.windows import Window

Result = TypeVar("Result")

PAGE = Path(__file__).with_name("page.html")


def create_app(clara: Clara, store: Clara | None = None, settings: Settings | None = None) -> FastAPI:
    """The server as an ASGI application.

    Args:
        clara: answers from the documents that come with a request; what it compresses is kept in memory alone.
        store: the same model with a store, for the routes on it; without one they say so.
        settings: bounds; the usual ones by default.
    """
    settings = settings or Settings()
    served = _Served(clara, store, settings)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        served.threads.shutdown()

    app = FastAPI(title="CLaRa", lifespan=life, description="Documents as latents: ranking, answers, a store.")
    app.add_middleware(Guard, settings=settings, meters=served.meters)
    add_errors(app)
    _add_operations(app, served)
    _add_ranking(app, served)
    _add_chat(app, served)
    _add_store(app, served)
    return app


class _Served:
    def __init__(self, clara: Clara, store: Clara | None, settings: Settings) -> None:
        self.clara, self._stored, self.settings, self.has_store = clara, store, settings, store is not None
        self.threads = ThreadPoolExecutor(settings.queue, thread_name_prefix="clara-serve")
        self.meters = Meters()

    @property
    def stored(self) -> Clara:
        """The model with a store. Raises `ClaraError`: there is none."""
        if self._stored is None:
            raise ClaraError("this server has no store; start it with clara serve --store FOLDER")
        return self._stored

    @property
    def store(self) -> DurableStore:
        """The store itself."""
        found = durable(self.stored.store)
        assert found is not None
        return found

    async def run(self, request: Request, call: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """A blocking call in a thread."""
        loop = asyncio.get_running_loop()
        return await self.wanted(request, loop.run_in_executor(self.threads, partial(call, *args, **options)))

    async def wanted(self, request: Request, work: Awaitable[Result]) -> Result:
        """What is worked on, while the client waits and there is time; else an `HTTPException` ends it."""
        task = asyncio.ensure_future(work)
        left = asyncio.ensure_future(_left(request))
        rest = request.scope["clara_until"] - time.monotonic()
        try:
            await asyncio.wait({task, left}, timeout=max(0.0, rest), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if left.done():
                raise HTTPException(LEFT, "the client has left")
            raise HTTPException(504, f"no answer within {self.settings.timeout:g} s; ask for less, or raise --timeout")
        finally:
            for one in (task, left):
                one.cancel()
            await asyncio.gather(task, left, return_exceptions=True)

    def check(self, name: str, value: int | None, most: int) -> int | None:
        """A number within its bound."""
        if value is not None and value > most:
            raise ClaraError(f"{name} must be at most {most} on this server, got {value}")
        return value


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_operations(app: FastAPI, served: _Served) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": served.clara.name, "store": served.has_store}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(generate_latest(served.meters.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        one = {"id": served.clara.name, "object": "model", "created": 0, "owned_by": "clara"}
        return {"object": "list", "data": [one]}


def _add_ranking(app: FastAPI, served: _Served) -> None:
    most = served.settings.max_documents

    @app.post("/rerank", response_model=None)
    @app.post("/v1/rerank", response_model=None)
    @app.post("/v2/rerank", response_model=None)
    async def rerank(body: Rerank, request: Request) -> Any:
        request.state.tei = body.texts is not None
        texts = body.texts if body.texts is not None else [_text(one) for one in body.documents or ()]
        served.check("the number of documents", len(texts), most)
        ranked = await served.run(request, served.clara.rank, body.query, texts)
        scale = served.clara.model.config.ranking, served.clara.shared.word_weight
        if body.texts is not None:
            return shapes.tei_reply(body, texts, ranked, scale)
        return shapes.rerank_reply(body, texts, ranked, scale, served.clara.name)

    @app.post("/v1/embeddings")
    async def embeddings(body: Embeddings, request: Request) -> dict[str, Any]:
        texts = [body.input] if isinstance(body.input, str) else body.input
        served.check("the number of texts", len(texts), most)
        clara = served.clara
        asks = body.input_type in ("query", "search_query", "question")

        def embed() -> tuple[list[list[float]], int]:
            made = (clara.embed_questions if asks else clara.embed_texts)(texts, body.dimensions)
            return made, sum(map(clara.count_tokens, texts))

        vectors, tokens = await served.run(request, embed)
        return shapes.embeddings_reply(body, vectors, tokens, clara.name)


def _text(document: str | dict[str, Any]) -> str:
    found = shapes.source_of(document)
    if isinstance(found, str):
        raise ClaraError(f"a document to rank must have a text; only chat takes the id of one in the store ({found})")
    return found.text


Pieces = AsyncGenerator[str, None]
Place = Callable[[Window], dict[str, Any]]
"""Where a window that was read stands, for a client."""


def _add_chat(app: FastAPI, served: _Served) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: Chat, request: Request) -> Any:
        stream, place = await served.run(request, _asked, served, body)
        pieces = read_stream(stream)
        try:
            first = await served.wanted(request, anext(pieces, None))  # an error is a status, not a piece
            if body.stream:
                events = _events(served, request, body, stream, place, pieces, first)
                return StreamingResponse(events, media_type="text/event-stream")
            await served.wanted(request, _rest(pieces))
        except BaseException:
            await pieces.aclose()
            raise
        served.meters.count(stream.answer)
        return ChatReply(served.clara.name).whole(stream.answer, _sources(stream.answer, place))


async def _rest(pieces: Pieces) -> None:
    async with aclosing(pieces):
        async for _ in pieces:
            pass


async def _events(
    served: _Served, request: Request, body: Chat, stream: AnswerStream, place: Place, pieces: Pieces, first: str | None
) -> AsyncIterator[str]:
    """Server-sent events; what fails on the way is the last of them."""
    reply, piece = ChatReply(served.clara.name), first
    async with aclosing(pieces):
        yield _event(reply.piece({"role": "assistant", "content": ""}))
        try:
            while piece is not None:
                yield _event(reply.piece({"content": piece}))
                piece = await served.wanted(request, anext(pieces, None))
        except Exception as error:
            yield _event(shapes.error_reply(*told(error)))
            return
    answer = stream.answer
    served.meters.count(answer)
    more = shapes.clara_of(answer, _sources(answer, place))
    yield _event(reply.piece({}, answer.finish_reason, clara=more))
    if (body.stream_options or {}).get("include_usage"):
        yield _event(reply.usage(answer))
    yield "data: [DONE]\n\n"


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"


def _asked(served: _Served, body: Chat) -> tuple[AnswerStream, Place]:
    """Start the answer; and say where what it reads is from."""
    settings = served.settings
    question, options = body.question, body.generation
    limit = body.max_completion_tokens or body.max_tokens
    if served.check("max_tokens", limit, settings.max_new_tokens) is not None:
        options["max_new_tokens"] = limit
    top_k = served.check("top_k", body.top_k, settings.max_top_k)
    if body.documents:
        served.check("the number of documents", len(body.documents), settings.max_documents)
        return _from_documents(served, question, body.documents, top_k, options)
    if body.store is False or not served.has_store:
        raise ClaraError("there is nothing to answer from; give documents, or store: true where the server has a store")
    found = served.stored.search(question, top_k, where=body.where)
    if found.latents is None:
        raise ClaraError("nothing in the store fits; add documents, or ask with another where")
    stream = served.stored.stream(question, found.latents, len(found), rerank=False, **options)
    return stream, lambda window: shapes.found_reply(found[window.document])


def _from_documents(
    served: _Served, question: str, documents: list[str | dict[str, Any]], top_k: int | None, options: dict[str, Any]
) -> tuple[AnswerStream, Place]:
    sources = [shapes.source_of(one) for one in documents]
    texts: list[list[str]] = []  # of each document; of one in the store, of each of its windows
    parts: list[Latents] = []
    for source in sources:
        if isinstance(source, Source):
            texts.append([source.text])
        else:
            latents = document_latents(served.store, served.stored.fingerprint, source)
            parts.append(latents)
            texts.append(list(latents.texts or [""] * len(latents)))

    def place(window: Window) -> dict[str, Any]:
        source, stored = sources[window.document], texts[window.document]
        if isinstance(source, Source):
            text, names = stored[0][window.start : window.end], {"id": source.id, "title": source.title}
        else:
            text, names = stored[window.number], {"id": source, "title": None}
        return {**names, "text": text, "window": window.number, "start": window.start, "end": window.end}

    candidates: list[str] | Latents = [rows[0] for rows in texts]
    if parts:  # texts beside what is compressed already
        rest = iter(parts)
        made = [served.clara.compress([one.text]) if isinstance(one, Source) else next(rest) for one in sources]
        candidates = Latents.stack(made)
    return served.clara.stream(question, candidates, top_k, **options), place


def _sources(answer: Answer, place: Place) -> list[dict[str, Any]]:
    """What was read, best first, with its score where there is one."""
    scores = {one.index: one.score for one in answer.ranking}
    return [{"index": one.document, "score": scores.get(one.document), **place(one)} for one in answer.windows]


def _add_store(app: FastAPI, served: _Served) -> None:
    settings = served.settings

    @app.post("/v1/documents")
    async def add(body: Documents, request: Request) -> dict[str, Any]:
        served.check("the number of documents", len(body.documents), settings.max_documents)
        return await served.run(request, _kept, served, body)

    @app.get("/v1/documents")
    async def listed(request: Request, limit: int = 100, after: str = "") -> dict[str, Any]:
        if not 1 <= limit <= settings.max_documents:
            raise ClaraError(f"limit must be from 1 to {settings.max_documents}, got {limit}")

        def read() -> dict[str, Any]:
            later = (one for one in served.store.documents() if one.id > after)
            found = list(islice(later, limit + 1))
            data = [shapes.document_reply(one) for one in found[:limit]]
            return {"object": "list", "data": data, "has_more": len(found) > limit}

        return await served.run(request, read)

    @app.delete("/v1/documents/{name:path}")
    async def delete(name: str, request: Request) -> dict[str, Any]:
        if not await served.run(request, lambda: served.store.forget([name])):
            raise HTTPException(404, f"the store holds no document {shown(name)}")
        return {"id": name, "object": "document", "deleted": True}

    @app.post("/v1/search")
    async def search(body: Search, request: Request) -> dict[str, Any]:
        top_k = served.check("top_k", body.top_k, settings.max_top_k)
        found = await served.run(request, lambda: served.stored.search(body.query, top_k, where=body.where))
        return {"object": "list", "data": [shapes.found_reply(one) for one in found]}


def _kept(served: _Served, body: Documents) -> dict[str, Any]:
    new = []
    for one in body.documents:
        text = f"{one.title}\n{one.text}" if one.title else one.text
        name, title = one.id or content_key(text)[:32], {"title": one.title} if one.title else {}
        document = Document(text=text, file=name, metadata={**one.metadata, **title})
        new.append((name, digest_of(document), document))
    if len({name for name, _, _ in new}) < len(new):
        raise ClaraError("two documents of one request have the same id; give each its own")
    done = compress_documents(served.stored, served.store, new)
    return {"ids": [name for name, _, _ in new], "windows": done.windows, "compressed": done.compressed}

"""What clients send and what they read: requests as pydantic models, replies as dictionaries.

Sources: text-embeddings-inference's ``/rerank``; Jina's and Cohere's ``/v1/rerank`` and ``/v2/rerank`` (vLLM serves the
same); OpenAI's ``/v1/chat/completions`` and ``/v1/embeddings``, with vLLM's and Cohere's ``documents``. Fields that say
nothing here are left unread; those that would change an answer and cannot are refused.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from clara_model.defaults import DIMENSIONS
from clara_model.inference.results import Answer, Found, Ranked
from clara_model.store.protocol import StoredDocument

_TEXTS = ("text", "content", "snippet")


class Body(BaseModel):
    """A request; fields of other servers are allowed and not read."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None


class Rerank(Body):
    """Texts to be ranked: ``texts`` as text-embeddings-inference takes them, ``documents`` as all others do."""

    query: str
    texts: list[str] | None = Field(default=None, min_length=1)
    documents: list[str | dict[str, Any]] | None = Field(default=None, min_length=1)
    top_n: int | None = Field(default=None, ge=1)
    raw_scores: bool = False
    return_text: bool = False
    return_documents: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Rerank:
        if (self.texts is None) == (self.documents is None):
            raise ValueError("give either documents or texts")
        return self


class Embeddings(Body):
    """Texts to be embedded."""

    input: str | list[str] = Field(min_length=1)
    input_type: Literal["document", "search_document", "passage", "query", "search_query", "question"] = "document"
    dimensions: int = Field(default=DIMENSIONS, ge=1, le=65536)
    encoding_format: Literal["float", "base64"] = "float"


class Message(BaseModel):
    """One turn of a conversation."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """What is said in it."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        if any(part.get("type") != "text" for part in self.content):
            raise ValueError("a message may hold text only, no images or sound")
        return "\n".join(str(part.get("text", "")) for part in self.content)


class Chat(Body):
    """A question, and what it is answered from."""

    messages: list[Message] = Field(min_length=1)
    documents: list[str | dict[str, Any]] | None = None
    store: bool | None = None
    where: dict[str, JsonValue] | None = None
    top_k: int | None = Field(default=None, ge=1)
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0)
    stop: str | list[str] | None = None
    as_copy: bool = Field(default=False, alias="copy")
    n: Literal[1] | None = None
    tools: list[Any] | None = Field(default=None, max_length=0)
    logprobs: Literal[False] | None = None
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    presence_penalty: float | None = Field(default=None, ge=0, le=0)

    @property
    def question(self) -> str:
        """What the user said last."""
        asked = [message for message in self.messages if message.role == "user"]
        if not asked:
            raise ValueError("messages: there is none of the user's to answer")
        return asked[-1].text

    @property
    def generation(self) -> dict[str, Any]:
        """For `Clara.stream`; what was not given is left out."""
        sampling: dict[str, Any] = {"temperature": self.temperature, "seed": self.seed, "stop": self.stop}
        sampling["copy"] = self.as_copy or None
        if self.temperature != 0 and self.top_p not in (None, 1):
            sampling["top_p"] = self.top_p
        return {name: value for name, value in sampling.items() if value is not None}


class NewDocument(BaseModel):
    """A document for the store."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field(min_length=1)
    id: str | None = Field(default=None, min_length=1, max_length=512)
    title: str | None = None
    metadata: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Documents(BaseModel):
    """Documents for the store."""

    documents: list[NewDocument] = Field(min_length=1)


class Search(Body):
    """A question to a store."""

    query: str
    top_k: int | None = Field(default=None, ge=1)
    where: dict[str, JsonValue] | None = None


@dataclass(frozen=True)
class Source:
    """A document that came with a question."""

    text: str
    id: str | None = None
    title: str | None = None


def source_of(document: str | dict[str, Any]) -> Source | str:
    """A document in any of the shapes, a `ValueError` without a text; the bare id of one in the store as a string."""
    if isinstance(document, str):
        return Source(document)
    name = None if document.get("id") is None else str(document["id"])
    data = document.get("data", document)
    if isinstance(data, str):
        return Source(data, name)
    if isinstance(data, dict):
        title = data.get("title")
        text = next((data[key] for key in _TEXTS if isinstance(data.get(key), str)), None)
        if isinstance(text, str):
            whole = f"{title}\n{text}" if isinstance(title, str) and title else text
            return Source(whole, name, title if isinstance(title, str) else None)
        if name is not None and set(document) == {"id"}:
            return name
    raise ValueError(f"a document must be a string or have a text, got {str(document)[:80]}")


def unit(one: Ranked, ranking: str, word_weight: float = 0.0) -> float:
    """A score from 0 to 1, in the same order."""
    least, most = (0.0, 1.0) if ranking == "late" else (-1.0, 1.0)
    if one.by == "words":
        least = 0.0
    if one.by == "both":
        most += word_weight
    return min(1.0, max(0.0, (one.score - least) / (most - least)))


def tei_reply(
    body: Rerank, texts: Sequence[str], ranked: Sequence[Ranked], scale: tuple[str, float]
) -> list[dict[str, Any]]:
    """As text-embeddings-inference ranks; ``scale`` is `unit`'s."""
    return [
        {"index": one.index, "score": one.score if body.raw_scores else unit(one, *scale)}
        | ({"text": texts[one.index]} if body.return_text else {})
        for one in ranked
    ]


def rerank_reply(
    body: Rerank, texts: Sequence[str], ranked: Sequence[Ranked], scale: tuple[str, float], model: str
) -> dict[str, Any]:
    """As Jina, Cohere and vLLM rank; ``scale`` is `unit`'s."""
    results = [
        {"index": one.index, "relevance_score": unit(one, *scale)}
        | ({"document": {"text": texts[one.index]}} if body.return_documents else {})
        for one in ranked[: body.top_n]
    ]
    return {"id": f"rerank-{uuid.uuid4().hex}", "model": model, "results": results, "usage": _usage(0)}


def embeddings_reply(body: Embeddings, vectors: Sequence[Sequence[float]], tokens: int, model: str) -> dict[str, Any]:
    """As OpenAI embeds."""
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(v) if body.encoding_format == "base64" else v}
        for index, v in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": _usage(tokens)}


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _usage(prompt: int, completion: int | None = None) -> dict[str, Any]:
    more = {} if completion is None else {"completion_tokens": completion}
    return {"prompt_tokens": prompt, **more, "total_tokens": prompt + (completion or 0)}


def usage_of(answer: Answer) -> dict[str, Any]:
    """Tokens as OpenAI counts them; of the prompt's, which are text and which stand for documents."""
    used = answer.usage
    details = {"text_tokens": used.prompt_tokens - used.slots, "slots": used.slots}
    return _usage(used.prompt_tokens, used.completion_tokens) | {"prompt_tokens_details": details}


def clara_of(answer: Answer, sources: list[dict[str, Any]]) -> dict[str, Any]:
    """What an answer has beside its text: where it is from, what that is in tokens, and the seconds."""
    return {
        "sources": sources,
        "answered_from": answer.answered_from,
        "confidence": answer.confidence,
        "quotes": [asdict(quote) for quote in answer.quotes],
        "unsupported": answer.unsupported,
        "text_tokens": answer.usage.text_tokens,
        "expanded_tokens": answer.usage.expanded_tokens,
        "slots": answer.usage.slots,
        "timings": asdict(answer.timings),
    }


class ChatReply:
    """One answer's replies, whole or in pieces."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, answer: Answer, sources: list[dict[str, Any]]) -> dict[str, Any]:
        """As OpenAI answers."""
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
        more = {"usage": usage_of(answer), "clara": clara_of(answer, sources)}
        return {**self._head, "object": "chat.completion", "choices": [choice], **more}

    def piece(self, delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
        """A chunk of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The last chunk where ``include_usage`` asks for it."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(answer)}


def found_reply(one: Found) -> dict[str, Any]:
    """A passage of the store."""
    return {**asdict(one), "id": one.id, "citation": one.citation}


def document_reply(one: StoredDocument) -> dict[str, Any]:
    """A document of the store."""
    return {"id": one.id, "object": "document", "windows": len(one.windows), "metadata": dict(one.metadata)}


def error_reply(sentence: str, status: int, *, tei: bool = False) -> dict[str, Any]:
    """An error where clients look for it: OpenAI's and vLLM's in ``error``, Cohere's ``message``, Jina's ``detail``."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if tei:
        return {"error": sentence, "error_type": "validation" if status < 500 else "backend"}
    error = {"message": sentence, "type": kind, "param": None, "code": status}
    return {"error": error, "message": sentence, "detail": sentence}

"""`ClaraGenerator`: answers a query from the latents of documents."""

from __future__ import annotations

import os
from contextlib import aclosing
from dataclasses import asdict
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from haystack import Document, component
from haystack.dataclasses import ChatMessage, ComponentInfo, StreamingCallbackT, StreamingChunk
from haystack.dataclasses import select_streaming_callback as chosen_callback
from haystack.utils import ComponentDevice, Secret, deserialize_callable, serialize_callable

from clara_model.components import checks
from clara_model.components.items import best_copies
from clara_model.components.streams import read_stream
from haystack_integrations.common.clara.component import ENGINE_KEY, TOKEN, ClaraComponent, check_documents, text_of

if TYPE_CHECKING:
    from clara_model.inference.clara import Answer, Clara


@component
class ClaraGenerator(ClaraComponent):
    """Answers a query from documents that a CLaRa model reads as latents: a few slots in the prompt for each.

    Takes the place of a prompt builder and a chat generator; what the prompt says is the checkpoint's. Documents are
    read in the order given, so put a `ClaraRanker` before it, or set ``rerank``. It takes a query and documents, not
    messages, so it does not go inside `Agent`, `LLMRanker` or `FallbackChatGenerator`; its ``replies`` connect to an
    `AnswerBuilder` and to whatever takes messages or strings. It streams in `run`, `run_async` and `Pipeline.stream`.

    ```python
    from haystack import Document
    from haystack_integrations.components.generators.clara import ClaraGenerator

    generator = ClaraGenerator(model="clara-tiny", generation_kwargs={"max_new_tokens": 16})
    documents = [Document(content="Ranvun Mepos was born in Jiwas. By trade he was a sailor, and liked the work.")]
    result = generator.run(query="Where was Ranvun Mepos born?", documents=documents)
    print(result["replies"][0].text, result["replies"][0].meta["usage"])
    ```
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Clara = checks.DEFAULT_MODEL,
        *,
        top_k: int | None = None,
        rerank: bool = False,
        generation_kwargs: dict[str, Any] | None = None,
        streaming_callback: StreamingCallbackT | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        min_confidence: float = 0.0,
        no_answer: str = checks.NO_ANSWER,
        subfolder: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        device: ComponentDevice | None = None,
        token: Secret | None = TOKEN,
        batch_size: int | None = None,
        store: str | os.PathLike[str] | None = None,
        engine_url: str | None = None,
        engine_api_key: Secret | None = ENGINE_KEY,
        engine_timeout: float | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Check and keep the arguments; `warm_up` or the first `run` loads the model.

        Those that `ClaraRanker` has too mean the same here.

        Args:
            top_k: documents to answer from at most (default: the checkpoint's own number).
            rerank: whether to rank the documents first, where no `ClaraRanker` has done so.
            generation_kwargs: ``max_new_tokens``, ``stop``, ``copy``, ``temperature``, ``top_p``, ``sampling_top_k``,
                ``seed`` and the others of `Clara.answer` (default: greedy).
            streaming_callback: called with a `StreamingChunk` for each piece of text.
            min_confidence: a reply whose ``confidence`` is lower is replaced; with more than 0, it comes in one piece.
            no_answer: by this.
            engine_url: of a vLLM server that writes with the checkpoint's exported generator (docs/serving.md).
            engine_api_key: of that server, read when the model is loaded.
            engine_timeout: seconds that it may take for an answer (default: 300).

        Raises:
            ValueError: ``top_k`` or ``batch_size`` below 1, or a device that is not a single `ComponentDevice`.
            TypeError: an unknown generation argument.
        """
        self._keep(locals())
        owner = type(self).__name__
        self.top_k = None if top_k is None else checks.check_top(top_k, "top_k", owner)
        self.generation_kwargs = checks.check_generation(generation_kwargs, owner)
        self.rerank, self.streaming_callback = rerank, streaming_callback
        self.min_confidence, self.no_answer = checks.check_share(min_confidence, "min_confidence", owner), no_answer
        self.meta_fields_to_embed = meta_fields_to_embed or []

    def _saved(self) -> dict[str, Any]:
        return {"streaming_callback": serialize_callable(self.streaming_callback) if self.streaming_callback else None}

    @classmethod
    def _restored(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        callback = arguments.get("streaming_callback")
        return {**arguments, "streaming_callback": deserialize_callable(callback)} if callback else dict(arguments)

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        query: str,
        documents: list[Document],
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """Answer a query from documents.

        Args:
            query: must not be blank.
            documents: best first; a content of None is the empty text.
            streaming_callback: instead of the component's.
            generation_kwargs: key by key instead of the component's.

        Returns:
            ``replies``: one message, none where there are no documents. Its ``meta`` holds ``model``, ``index``,
            ``finish_reason`` (``stop`` or ``length``), ``usage`` (``prompt_tokens`` with ``slots`` memory tokens among
            them, ``completion_tokens``, ``total_tokens``, ``text_tokens`` of what was read, and ``expanded_tokens`` of
            those that were read as text, the slots standing for the others),
            ``answered_from`` (``latents``, or ``text`` where there were none yet: ``cold``),
            ``confidence`` and ``found`` (whether it reaches ``min_confidence``), ``quotes`` (where words of the reply
            stand in the documents, in characters), ``unsupported`` (numbers and names that stand in none),
            ``document_ids`` (those that were read) and ``windows`` (what was read of them, in the generator's order:
            the number of the window and the characters of the text where it starts and ends; 0, 0 and None for a
            whole text).

        Raises:
            ValueError: a blank query, an unfit generation argument, or more slots than the prompt can hold.
            TypeError: not a query, not a list of documents, or an unknown generation argument.
        """
        callback = chosen_callback(self.streaming_callback, streaming_callback, requires_async=False)
        offered = self._offered(query, documents)
        if not offered:
            return {"replies": []}
        texts, how = self._texts(offered), self._how(generation_kwargs)
        if callback is None or self.min_confidence:
            answer = self.clara.answer(query, texts, self.top_k, **how)
            if callback is not None:
                callback(self._chunk(self._said(answer), start=True))
        else:
            with self.clara.stream(query, texts, self.top_k, **how) as stream:
                for number, piece in enumerate(stream):
                    callback(self._chunk(piece, start=number == 0))
            answer = stream.answer
        if callback is not None:
            callback(self._chunk("", finish_reason=answer.finish_reason))
        return self._result(answer, offered)

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """`run` without blocking the event loop; the callback may be a coroutine function, cancelling ends a stream."""
        callback = chosen_callback(self.streaming_callback, streaming_callback, requires_async=True)
        offered = self._offered(query, documents)
        if not offered:
            return {"replies": []}
        texts, how = self._texts(offered), self._how(generation_kwargs)
        await self.warm_up_async()
        if callback is None or self.min_confidence:
            answer = await self._run_in_thread(self.clara.answer, query, texts, self.top_k, **how)
            if callback is not None:
                await _called(callback, self._chunk(self._said(answer), start=True))
        else:
            stream, first = await self._run_in_thread(self.clara.stream, query, texts, self.top_k, **how), True
            async with aclosing(read_stream(stream)) as pieces:
                async for piece in pieces:
                    await _called(callback, self._chunk(piece, start=first))
                    first = False
            answer = stream.answer
        if callback is not None:
            await _called(callback, self._chunk("", finish_reason=answer.finish_reason))
        return self._result(answer, offered)

    def _offered(self, query: str, documents: list[Document]) -> list[Document]:
        owner = type(self).__name__
        if self.top_k is not None:
            checks.check_top(self.top_k, "top_k", owner)
        offered = best_copies(check_documents(documents, owner), lambda one: one.id, lambda one: one.score)
        if offered:
            checks.check_query(query, owner)
        return offered

    def _texts(self, documents: list[Document]) -> list[str]:
        return [text_of(document, self.meta_fields_to_embed, self.embedding_separator) for document in documents]

    def _how(self, generation_kwargs: dict[str, Any] | None) -> dict[str, Any]:
        given = checks.check_generation({**self.generation_kwargs, **(generation_kwargs or {})}, type(self).__name__)
        return {**given, "rerank": self.rerank}

    def _chunk(self, content: str, **fields: Any) -> StreamingChunk:
        info = ComponentInfo.from_component(self)
        return StreamingChunk(content, {"model": self._holder.name}, component_info=info, index=0, **fields)

    def _said(self, answer: Answer) -> str:
        return answer.text if answer.found(self.min_confidence) else self.no_answer

    def _result(self, answer: Answer, offered: list[Document]) -> dict[str, list[ChatMessage]]:
        usage = answer.usage
        meta = {
            "model": self._holder.name,
            "index": 0,
            "finish_reason": answer.finish_reason,
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
                "slots": usage.slots,
                "text_tokens": usage.text_tokens,
                "expanded_tokens": usage.expanded_tokens,
            },
            "answered_from": answer.answered_from,
            "confidence": answer.confidence,
            "found": answer.found(self.min_confidence),
            "quotes": [{**asdict(quote), "document_id": offered[quote.document].id} for quote in answer.quotes],
            "unsupported": answer.unsupported,
            "document_ids": list(dict.fromkeys(offered[index].id for index in answer.selected)),
            "windows": [
                {"document_id": offered[one.document].id, "number": one.number, "start": one.start, "end": one.end}
                for one in answer.windows
            ],
        }
        return {"replies": [ChatMessage.from_assistant(self._said(answer), meta=meta)]}


async def _called(callback: StreamingCallbackT, chunk: StreamingChunk) -> None:
    result = callback(chunk)
    if isawaitable(result):
        await result

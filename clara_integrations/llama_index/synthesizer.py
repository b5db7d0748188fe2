"""`ClaraSynthesizer`: a LlamaIndex response synthesizer that answers from the nodes' latents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from llama_index.core.bridge.pydantic import ConfigDict
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.prompt_helper import ChatPromptHelper, PromptHelper
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers import BaseSynthesizer

from clara_integrations.llama_index.component import Loading, apieces, pieces
from clara_integrations.llama_index.llm import ClaraLLM
from clara_integrations.shared import DEFAULT_MODEL, check_query

if TYPE_CHECKING:
    from clara_model.inference.clara import Answer, AnswerStream, Clara

dispatcher = get_dispatcher(__name__)


class ClaraAnswerEvent(BaseEvent):
    """An answer has been written: what it was read from and written with, in tokens, and the seconds of each phase."""

    model_config = ConfigDict(protected_namespaces=("pydantic_model_",))
    model_name: str
    text_tokens: int
    slots: int
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    seconds: dict[str, float]

    @classmethod
    def class_name(cls) -> str:
        """Name of the event."""
        return "ClaraAnswerEvent"


class ClaraSynthesizer(BaseSynthesizer):
    """Answers from the latents of all the nodes it is given, in their order; their text does not enter the prompt.

    It needs neither `Settings.llm` nor a prompt template: the generator answers under the checkpoint's own prompt. Its
    `llm` is the base model of the same checkpoint, for whatever else wants one.

    ```python
    from llama_index.core.schema import NodeWithScore, TextNode

    from clara_integrations.llama_index import ClaraSynthesizer

    synthesizer = ClaraSynthesizer(model="clara-tiny")
    nodes = [NodeWithScore(node=TextNode(text="Ranvun Mepos was born in Jiwas."))]
    print(synthesizer.synthesize("Where was Ranvun Mepos born?", nodes))
    ```
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Clara = DEFAULT_MODEL,
        *,
        streaming: bool = False,
        max_new_tokens: int = 128,
        generate_kwargs: Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
        empty_response: str | None = None,
        output_cls: type | None = None,
        **loading: Unpack[Loading],
    ) -> None:
        """Make a synthesizer; the model is loaded when it first answers.

        Args:
            model: a checkpoint's folder, bundled or hub name, or a loaded `Clara`.
            streaming: whether answers come piece by piece, one piece for each token.
            max_new_tokens: at most so many new tokens.
            generate_kwargs: ``stop`` and the sampling arguments of `Clara.answer`.
            callback_manager: `Settings.callback_manager` where not given.
            empty_response: the response where there are no nodes.
            output_cls: not offered; refused with an error.
            **loading: ``subfolder``, ``device``, ``dtype`` and the rest of `Loading`.
        """
        if output_cls is not None:
            name = getattr(output_cls, "__name__", output_cls)
            raise ValueError(
                f"ClaraSynthesizer writes text, it cannot fill output_cls={name}; leave output_cls out, or use a stock "
                "synthesizer with a model that writes structured output"
            )
        llm = ClaraLLM(
            model=model, max_new_tokens=max_new_tokens, generate_kwargs=dict(generate_kwargs or {}), **loading
        )
        super().__init__(
            llm=llm,
            callback_manager=callback_manager,
            prompt_helper=PromptHelper(),  # unused; the base class would load the model to make them
            chat_prompt_helper=ChatPromptHelper(),
            streaming=streaming,
            empty_response=empty_response,
        )
        self.llm = llm

    def close(self) -> None:
        """Let go of the model; the next answer loads it again."""
        self.llm.close()

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        if prompts:
            raise ValueError(
                f"ClaraSynthesizer has no prompt templates ({', '.join(prompts)}): the generator was trained under the "
                "checkpoint's own prompt"
            )

    def get_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str | Generator[str, None, None]:
        """Answer from the latents of texts.

        Args:
            query_str: the question, not blank.
            text_chunks: the texts, all of which are read.
            **response_kwargs: ``max_new_tokens``, ``stop`` and sampling arguments, for this answer only.

        Returns:
            the answer, or its pieces where the synthesizer streams.
        """
        if not text_chunks:
            return self._empty_response_generator() if self._streaming else self._empty_response
        check_query(query_str)
        if self._streaming:
            stream = self._stream(query_str, text_chunks, response_kwargs)
            return pieces(stream, lambda: self._report(stream.answer))
        return self._answer(query_str, text_chunks, response_kwargs)

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str | AsyncGenerator[str, None]:
        """`get_response` beside the event loop: the model works in a thread."""
        if not text_chunks:
            return self._empty_response_agenerator() if self._streaming else self._empty_response
        check_query(query_str)
        if self._streaming:
            stream = await asyncio.to_thread(self._stream, query_str, text_chunks, response_kwargs)
            return apieces(stream, lambda: self._report(stream.answer))
        return await asyncio.to_thread(self._answer, query_str, text_chunks, response_kwargs)

    def _answer(self, question: str, texts: Sequence[str], options: Mapping[str, Any]) -> str:
        clara, how = self.llm.clara, self.llm.generation(options)
        answer = clara.answer(question, list(texts), self._windows(texts), rerank=False, **how)
        self._report(answer)
        return answer.text

    def _stream(self, question: str, texts: Sequence[str], options: Mapping[str, Any]) -> AnswerStream:
        clara, how = self.llm.clara, self.llm.generation(options)
        return clara.stream(question, list(texts), self._windows(texts), rerank=False, **how)

    def _windows(self, texts: Sequence[str]) -> int:
        """How many windows to read: every text, and of long ones as many as the checkpoint reads documents."""
        return max(len(texts), self.llm.clara.model.config.top_k)

    def _report(self, answer: Answer) -> None:
        seconds, usage = answer.timings, answer.usage
        dispatcher.event(
            ClaraAnswerEvent(
                model_name=self.llm.checkpoint,
                text_tokens=usage.text_tokens,
                slots=usage.slots,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                finish_reason=answer.finish_reason,
                seconds={"compress": seconds.compress, "generate": seconds.generate},
            )
        )

"""`LatentReader`: the generator over given texts as an LLM of LlamaIndex, so that answering looks like any LLM's call.

LlamaIndex's own `predict` and `stream` call it and emit what they emit for a stock synthesizer, with its counts.
Leaves out choosing and ordering the texts: that is a `ClaraSynthesizer`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.bridge.pydantic import ConfigDict, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.prompts import PromptTemplate

from clara_integrations.llama_index.llm import ClaraLLM, Turns
from clara_model.components.checks import NO_ANSWER

if TYPE_CHECKING:
    from clara_model.inference.clara import Answer, AnswerStream

dispatcher = get_dispatcher(__name__)

QUESTION = PromptTemplate("{query_str}")
"""All that is said in words; the rest of the prompt is the checkpoint's own, and latents."""


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
    expanded_tokens: int
    """Of the text tokens, those that were read as text (``expand``)."""
    confidence: float | None
    """`Answer.confidence`."""
    found: bool
    """Whether the confidence reached the synthesizer's ``min_confidence``."""
    quotes: list[dict[str, int]]
    """`Answer.quotes`: where words of the answer stand in the texts."""
    unsupported: list[str] | None
    """`Answer.unsupported`: its numbers and names that stand in none."""
    answered_from: str
    """``latents``, or ``text`` where there were none yet (``cold="text"``)."""
    citations: list[str]
    """What was read, in the generator's order: ``document 2``, or ``document 2, window 3`` of a long text."""

    @classmethod
    def class_name(cls) -> str:
        """Name of the event."""
        return "ClaraAnswerEvent"


class LatentReader(ClaraLLM):
    """Answers the question that is the last user's turn from the latents of all its texts, in their order.

    ``LatentReader.of(llm, texts, {}, manager).predict(QUESTION, query_str="Who ..?")``
    """

    _texts: list[str] = PrivateAttr()
    _min_confidence: float = PrivateAttr(default=0.0)
    _no_answer: str = PrivateAttr(default=NO_ANSWER)
    _trust: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(
        cls,
        llm: ClaraLLM,
        texts: Sequence[str],
        options: Mapping[str, Any],
        manager: CallbackManager,
        min_confidence: float = 0.0,
        no_answer: str = NO_ANSWER,
    ) -> Self:
        """One that shares the model of ``llm``, which generates as that one does unless ``options`` say otherwise.

        An answer below ``min_confidence`` is replaced by ``no_answer``.
        """
        reader = cls(
            model=llm.model,
            max_new_tokens=llm.max_new_tokens,
            context_window=DEFAULT_CONTEXT_WINDOW,  # known without loading the model
            generate_kwargs={**llm.generate_kwargs, **options},
            callback_manager=manager,
            **llm.loading,
        )
        reader._texts, reader._holder = list(texts), llm._holder
        reader._min_confidence, reader._no_answer = min_confidence, no_answer
        return reader

    def _write(self, turns: Turns, options: Mapping[str, Any]) -> CompletionResponse:
        how = {**self.generation(options), "rerank": False}
        return self._completed(self.clara.answer(turns[-1]["content"], self._texts, self._windows, **how))

    def _stream(self, turns: Turns, options: Mapping[str, Any]) -> AnswerStream:
        how = {**self.generation(options), "rerank": False}
        return self.clara.stream(turns[-1]["content"], self._texts, self._windows, **how)

    @property
    def trust(self) -> dict[str, Any]:
        """What the last answer says about itself, for metadata."""
        return self._trust

    @property
    def _windows(self) -> int:
        """How many to read: every text, and of long ones as many windows as the checkpoint reads documents."""
        return max(len(self._texts), self.clara.top_k)

    def _completed(self, answer: Answer) -> CompletionResponse:
        seconds, usage, found = answer.timings, answer.usage, answer.found(self._min_confidence)
        self._trust = {
            "confidence": answer.confidence,
            "found": found,
            "quotes": [asdict(quote) for quote in answer.quotes],
            "unsupported": answer.unsupported,
        }
        dispatcher.event(
            ClaraAnswerEvent(
                model_name=self.checkpoint,
                text_tokens=usage.text_tokens,
                slots=usage.slots,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                finish_reason=answer.finish_reason,
                seconds={"compress": seconds.compress, "generate": seconds.generate},
                answered_from=answer.answered_from,
                citations=answer.citations,
                expanded_tokens=usage.expanded_tokens,
                **self._trust,
            )
        )
        return super()._completed(answer if found else replace(answer, text=self._no_answer))

"""`ClaraSynthesizer`: a LlamaIndex response synthesizer that answers from the nodes' latents."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.prompt_helper import ChatPromptHelper, PromptHelper
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.synthesis import GetResponseEndEvent, GetResponseStartEvent
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore
from llama_index.core.types import RESPONSE_TEXT_TYPE, TokenAsyncGen, TokenGen

from clara_integrations.llama_index.component import errors_of
from clara_integrations.llama_index.llm import ClaraLLM
from clara_integrations.llama_index.reading import QUESTION, LatentReader
from clara_model.checkpoint.options import ClaraLoadKeywords
from clara_model.components.checks import DEFAULT_MODEL, NO_ANSWER, check_generation, check_query, check_share

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

dispatcher = get_dispatcher(__name__)
METADATA = "clara"
"""Key of a response's metadata: ``confidence``, ``found``, ``quotes`` and ``unsupported`` of a `ClaraAnswerEvent`."""


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
        min_confidence: float = 0.0,
        no_answer: str = NO_ANSWER,
        **loading: Unpack[ClaraLoadKeywords],
    ) -> None:
        """Make a synthesizer; the model is loaded when it first answers.

        Args:
            model: a checkpoint's folder, bundled or hub name, or a loaded `Clara`.
            streaming: whether answers come piece by piece, one piece for each token.
            max_new_tokens: most tokens to write.
            generate_kwargs: ``stop``, ``copy`` and the sampling arguments of `Clara.answer`.
            callback_manager: default `Settings.callback_manager`.
            empty_response: the response where there are no nodes.
            output_cls: refused, as prompt templates are, with the sentence that says which component takes it.
            min_confidence: an answer whose `Answer.confidence` is lower is replaced; with more than 0, a stream's
                answer comes in one piece.
            no_answer: by this.
            **loading: ``subfolder``, ``device``, ``dtype`` and the rest of `Clara.load`, but for a token.
        """
        owner = type(self).__name__
        refuse_for_text({**loading, "output_cls": output_cls}, owner)
        how = check_generation(generate_kwargs, owner)
        with errors_of(owner):
            llm = ClaraLLM(model=model, max_new_tokens=max_new_tokens, generate_kwargs=how, **dict[str, Any](loading))
        super().__init__(
            llm=llm,
            callback_manager=callback_manager,
            prompt_helper=PromptHelper(),  # unused; the base class would load the model to make them
            chat_prompt_helper=ChatPromptHelper(),
            streaming=streaming,
            empty_response=empty_response,
        )
        self.llm = llm
        self.min_confidence = check_share(min_confidence, "min_confidence", owner)
        self.no_answer = no_answer

    def close(self) -> None:
        """Let go of the model; the next answer loads it again."""
        self.llm.close()

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        refuse_for_text(dict.fromkeys(prompts, ""), type(self).__name__)

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
        question, reader = self._reader(query_str, text_chunks, response_kwargs)
        if self._streaming and self.min_confidence:
            response: str | TokenGen = _one_piece(reader, question)
        elif self._streaming:
            response = (piece for piece in reader.stream(QUESTION, query_str=question) if piece)  # not the usage
        else:
            response = _Said(reader.predict(QUESTION, query_str=question))
            response.trust = reader.trust
        dispatcher.event(GetResponseEndEvent())
        return response

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str | AsyncGenerator[str, None]:
        """`get_response` without blocking the event loop: the model works in a thread."""
        if not text_chunks:
            return self._empty_response_agenerator() if self._streaming else self._empty_response
        question, reader = self._reader(query_str, text_chunks, response_kwargs)
        if self._streaming and self.min_confidence:
            response: str | TokenAsyncGen = _aone_piece(reader, question)
        elif self._streaming:
            tokens = await reader.astream(QUESTION, query_str=question)
            response = (piece async for piece in tokens if piece)
        else:
            response = _Said(await reader.apredict(QUESTION, query_str=question))
            response.trust = reader.trust
        dispatcher.event(GetResponseEndEvent())
        return response

    def _reader(self, question: str, texts: Sequence[str], options: Mapping[str, Any]) -> tuple[str, LatentReader]:
        """The question as events can hold it, and what answers it."""
        owner = type(self).__name__
        question, how = _whole(check_query(question, owner)), check_generation(options, owner)
        dispatcher.event(GetResponseStartEvent(query_str=question, text_chunks=list(map(_whole, texts))))
        sure = self.min_confidence, self.no_answer
        return question, LatentReader.of(self.llm, texts, how, self.callback_manager, *sure)

    def _prepare_response_output(
        self, response_str: RESPONSE_TEXT_TYPE | None, source_nodes: list[NodeWithScore]
    ) -> RESPONSE_TYPE:
        response = super()._prepare_response_output(response_str, source_nodes)
        if isinstance(response_str, _Said):
            response.metadata = {**(response.metadata or {}), METADATA: response_str.trust}
        return response


def refuse_for_text(given: Mapping[str, Any], owner: str) -> None:
    """Templates and forms of an answer are for a language model that reads text; None stands for one that is not given.

    Raises:
        TypeError: one of them, with the component that takes it.
    """
    for name, value in given.items():
        if value is not None and (name == "output_cls" or name.endswith("_template")):
            wanted = "an llm that writes JSON" if name == "output_cls" else "ClaraLLM(model) or any other llm"
            raise TypeError(
                f"{owner} answers from latents under the checkpoint's own prompt and cannot use {name}; rank with "
                f"ClaraRerank and write with RetrieverQueryEngine.from_args(retriever, llm=.., "
                f"node_postprocessors=[ClaraRerank(model)], {name}=..), with {wanted}"
            )


class _Said(str):
    """An answer on its way to its `Response`, with what it says about itself."""

    trust: dict[str, Any]


def _whole(text: str) -> str:
    """Half a character, which pydantic refuses, as what it is read as: U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _one_piece(reader: LatentReader, question: str) -> Generator[str, None, None]:
    yield reader.predict(QUESTION, query_str=question)


async def _aone_piece(reader: LatentReader, question: str) -> AsyncGenerator[str, None]:
    yield await reader.apredict(QUESTION, query_str=question)

"""`ClaraLLM`: the base model of a checkpoint as an ordinary LlamaIndex LLM, on plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms import generic_utils
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    TextBlock,
)
from llama_index.core.bridge.pydantic import Field, field_validator
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

from clara_integrations.llama_index.component import ClaraComponent
from clara_model.components.checks import check_generation
from clara_model.components.streams import read_stream

if TYPE_CHECKING:
    from clara_model.inference.clara import Answer, AnswerStream

Turns = list[dict[str, str]]

_ROLES = {MessageRole.SYSTEM: "system", MessageRole.DEVELOPER: "system", MessageRole.USER: "user"}
_ROLES |= dict.fromkeys((MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL), "assistant")


class ClaraLLM(ClaraComponent, CustomLLM):
    """The base model alone: no latents, no roles; for chat engines, stock synthesizers and whatever else takes an LLM.

    It shares the weights with the `ClaraRerank` and `ClaraSynthesizer` of the same checkpoint. A prompt to `complete`
    is one user's turn: every call goes through the base model's chat template.

    ```python
    from llama_index.core import Settings

    from clara_integrations.llama_index import ClaraLLM

    Settings.llm = ClaraLLM(model="clara-tiny", max_new_tokens=16)
    print(Settings.llm.complete("Where was Ranvun Mepos born?"))
    ```
    """

    max_new_tokens: int = Field(default=256, gt=0, description="New tokens of one response at most.")
    generate_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="`stop`, `temperature` and the other sampling arguments of `Clara.plain`."
    )
    context_window: int | None = Field(
        default=None, gt=0, description="Tokens of prompt and response together; default: the base model's own."
    )

    @field_validator("generate_kwargs")
    @classmethod
    def _known(cls, options: dict[str, Any]) -> dict[str, Any]:
        return check_generation(options, cls.__name__)

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex plans prompts with; without ``context_window`` it loads the model."""
        window = self.context_window or self.clara.context_window
        return LLMMetadata(
            context_window=window or DEFAULT_CONTEXT_WINDOW,
            num_output=self.max_new_tokens,
            is_chat_model=True,
            model_name=self.checkpoint,
        )

    def generation(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of one generation: ``options`` win over the component's own."""
        given = {"max_new_tokens": self.max_new_tokens, **self.generate_kwargs, **options}
        return check_generation(given, type(self).__name__)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer one user's turn, after the ``system_prompt`` unless the prompt is ``formatted`` already."""
        return self._write(self._turn(prompt, formatted), kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete` without blocking the event loop."""
        return await self._holder.run_in_thread(self._write, self._turn(prompt, formatted), kwargs)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """`complete` piece by piece; what follows the last piece is the usage."""
        return self._written(self._stream(self._turn(prompt, formatted), kwargs))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """`stream_complete` without blocking the event loop."""
        return self._awritten(await self._holder.run_in_thread(self._stream, self._turn(prompt, formatted), kwargs))

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation of system, user and assistant turns."""
        return generic_utils.completion_response_to_chat_response(self._write(_turns(messages), kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` without blocking the event loop."""
        written = await self._holder.run_in_thread(self._write, _turns(messages), kwargs)
        return generic_utils.completion_response_to_chat_response(written)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """`chat` piece by piece; what follows the last piece is the usage."""
        return generic_utils.stream_completion_response_to_chat_response(
            self._written(self._stream(_turns(messages), kwargs))
        )

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`stream_chat` without blocking the event loop."""
        stream = await self._holder.run_in_thread(self._stream, _turns(messages), kwargs)
        return generic_utils.astream_completion_response_to_chat_response(self._awritten(stream))

    def _turn(self, prompt: str, formatted: bool) -> Turns:
        system = [] if formatted or not self.system_prompt else [{"role": "system", "content": self.system_prompt}]
        return [*system, {"role": "user", "content": prompt}]

    def _write(self, turns: Turns, options: Mapping[str, Any]) -> CompletionResponse:
        return self._completed(self.clara.plain(turns, **self.generation(options)))

    def _stream(self, turns: Turns, options: Mapping[str, Any]) -> AnswerStream:
        return self.clara.stream_plain(turns, **self.generation(options))

    def _written(self, stream: AnswerStream) -> CompletionResponseGen:
        text = ""
        with stream:
            for piece in stream:
                text += piece
                yield CompletionResponse(text=text, delta=piece)
        yield self._completed(stream.answer)

    async def _awritten(self, stream: AnswerStream) -> CompletionResponseAsyncGen:
        text = ""
        async with aclosing(read_stream(stream)) as pieces:
            async for piece in pieces:
                text += piece
                yield CompletionResponse(text=text, delta=piece)
        yield self._completed(stream.answer)

    def _completed(self, answer: Answer) -> CompletionResponse:
        """A whole answer; its usage is where token counting looks for it, and where it enters no later prompt."""
        used = {"prompt_tokens": answer.usage.prompt_tokens, "completion_tokens": answer.usage.completion_tokens}
        raw = {"usage": {**used, "total_tokens": sum(used.values())}, "finish_reason": answer.finish_reason}
        return CompletionResponse(text=answer.text, delta="", raw=raw)


def _turns(messages: Sequence[ChatMessage]) -> Turns:
    turns = []
    for message in messages:
        if (role := _ROLES.get(message.role)) is None:
            turns_known = "the base model's conversation has system, user and assistant turns"
            raise ValueError(f"{turns_known}, got one of {message.role.value!r}")
        if other := [type(block).__name__ for block in message.blocks if not isinstance(block, TextBlock)]:
            raise ValueError(f"the base model reads text only, got {', '.join(other)}")
        turns.append({"role": role, "content": message.content or ""})
    return turns

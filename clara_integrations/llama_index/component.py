"""What the components have in common: which checkpoint, how it is loaded, and the model once it is needed."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
)
from llama_index.core.schema import BaseComponent

from clara_model.checkpoint.options import Cold, LongDocuments, Ranking
from clara_model.components.checks import DEFAULT_MODEL
from clara_model.components.model_holder import ModelHolder
from clara_model.components.streams import read_stream

if TYPE_CHECKING:
    from clara_model.inference.clara import AnswerStream, Clara

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
Quantization = Literal["int8", "int4"]
Decoding = Literal["quick", "exact", "compiled"]


class Loading(TypedDict, total=False):
    """The fields that say how a model is loaded; components share a model if these are the same."""

    subfolder: str | None
    revision: str | None
    base_model: str | None
    prompts: str | None
    device: str | None
    dtype: Dtype | None
    attn_implementation: Attention | None
    quantization: Quantization | None
    decoding: Decoding | None
    batch_tokens: int | None
    batch_size: int | None
    cache_bytes: int | None
    long_documents: LongDocuments | None
    cold: Cold | None
    ranking: Ranking | None
    expand: int | None
    store: str | None
    engine_url: str | None
    engine_api_key: str | None
    engine_timeout: float | None


class ClaraComponent(BaseComponent):
    """The fields that name a checkpoint, and the model: loaded when first needed, shared, let go by `close`.

    Components that name the same checkpoint share one copy of it, its lock and its cache of latents. A component of a
    `Clara` that you loaded yourself works like any other but cannot be serialized. A token for private repositories is
    the hub's own business: log in with ``hf auth login`` or set ``HF_TOKEN``.

    The model itself is ``clara``: ``ClaraLLM(model="clara-tiny").clara.answer("Who ..?", texts)``
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", validate_assignment=True)

    model: Any = Field(
        default=DEFAULT_MODEL, frozen=True, description="A checkpoint's folder, bundled or hub name, or a `Clara`."
    )
    subfolder: str | None = Field(default=None, frozen=True, description="Inside it, e.g. `compression-16`.")
    revision: str | None = Field(default=None, frozen=True, description="Of the hub repository.")
    base_model: str | None = Field(
        default=None, frozen=True, description="Instead of the base model that the checkpoint names."
    )
    prompts: str | None = Field(default=None, frozen=True, description="A prompts file, instead of the checkpoint's.")
    device: str | None = Field(default=None, frozen=True, description="E.g. `cuda:0`, `cpu`; a GPU where there is one.")
    dtype: Dtype | None = Field(
        default=None, frozen=True, description="Default: bfloat16 if the device has it in hardware."
    )
    attn_implementation: Attention | None = Field(default=None, frozen=True, description="Default: `sdpa`.")
    quantization: Quantization | None = Field(default=None, frozen=True, description="Of the base model (GPU only).")
    decoding: Decoding | None = Field(
        default=None, frozen=True, description="`quick` or `exact` products on a CPU; `compiled` on a GPU."
    )
    batch_tokens: int | None = Field(
        default=None, gt=0, frozen=True, description="Tokens in one batch at most; by the device if not given."
    )
    batch_size: int | None = Field(
        default=None, gt=0, frozen=True, description="Texts in one batch at most; by their length alone if not given."
    )
    cache_bytes: int | None = Field(
        default=None, ge=0, frozen=True, description="Bound of the shared cache of latents; 0 keeps none."
    )
    long_documents: LongDocuments | None = Field(
        default=None,
        frozen=True,
        description="Texts longer than the checkpoint reads at once: `split` (default), `truncate` or `error`.",
    )
    cold: Cold | None = Field(
        default=None,
        frozen=True,
        description="Where there are no latents yet: `compress` (default), or `text` now and latents later.",
    )
    ranking: Ranking | None = Field(
        default=None,
        frozen=True,
        description="`latents`, or `hybrid` with shared words beside them; default: what the checkpoint says.",
    )
    expand: int | None = Field(
        default=None,
        ge=0,
        frozen=True,
        description="Of the windows that are read, how many as text, best first; default: what the checkpoint says.",
    )
    store: str | None = Field(
        default=None,
        frozen=True,
        description="A folder where latents are kept beyond the process; what it holds is not compressed again.",
    )
    engine_url: str | None = Field(
        default=None, frozen=True, description="Of a vLLM server that writes with the checkpoint's exported generator."
    )
    engine_api_key: str | None = Field(
        default=None, frozen=True, exclude=True, repr=False,
        description="Of that server; never saved. Default: `$CLARA_ENGINE_API_KEY`.",
    )  # fmt: skip
    engine_timeout: float | None = Field(
        default=None, gt=0, frozen=True, description="Seconds that it may take for an answer (default: 300)."
    )

    _holder: ModelHolder = PrivateAttr()

    def __init__(self, model: Any = None, **fields: Any) -> None:
        """Take the model by position or by name, and the other fields by name; nothing is loaded."""
        super().__init__(**fields if model is None else {"model": model, **fields})

    def model_post_init(self, context: Any, /) -> None:
        """Remember what to load."""
        super().model_post_init(context)
        self._holder = ModelHolder(self.model, self.loading, type(self).__name__)

    @field_validator("model", "base_model", "prompts", "store", mode="before")
    @classmethod
    def _plain_name(cls, name: Any) -> Any:
        return os.fspath(name) if isinstance(name, os.PathLike) else name

    @field_validator("device", "dtype", mode="before")
    @classmethod
    def _plain_value(cls, value: Any) -> Any:
        return None if value is None else str(value).removeprefix("torch.")

    @field_serializer("model")
    def _saved_name(self, _: Any) -> str:
        return self._holder.saved_name

    def __getstate__(self) -> dict[str, Any]:
        _ = self._holder.saved_name  # raises; the base class would drop the model and load the default instead
        return super().__getstate__()

    @property
    def loading(self) -> dict[str, Any]:
        """How the model is loaded: the fields of `Loading`."""
        return {name: getattr(self, name) for name in Loading.__annotations__}

    @property
    def clara(self) -> Clara:
        """The model, loaded now if it is not yet."""
        return self._holder.get()

    @property
    def checkpoint(self) -> str:
        """The checkpoint's name, for events and logs."""
        return self._holder.name

    def close(self) -> None:
        """Let go of the model: the last component's close frees its memory; the next use loads it again."""
        self._holder.close()


@contextmanager
def errors_of(owner: str) -> Iterator[None]:
    """What a part of a component refuses is told in the name of the class that the user has called.

    Raises:
        ValueError: a field that does not fit, in one sentence.
    """
    try:
        yield
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in error.errors()]
        raise ValueError(f"{owner}: {'; '.join(wrong)}") from None


def pieces(stream: AnswerStream) -> Generator[str, None, None]:
    """The pieces of a stream, which ends when its reader is gone."""
    with stream:
        yield from stream


async def apieces(stream: AnswerStream) -> AsyncGenerator[str, None]:
    """`pieces` without blocking the event loop."""
    async with aclosing(read_stream(stream)) as found:
        async for piece in found:
            yield piece

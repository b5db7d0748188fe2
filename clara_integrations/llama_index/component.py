"""What the components have in common: which checkpoint, how it is loaded, and the model once it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
)
from llama_index.core.schema import BaseComponent

from clara_model.checkpoint.options import LOAD_OPTIONS, Cold, LongDocuments, Ranking
from clara_model.components.checks import DEFAULT_MODEL
from clara_model.components.model_holder import ModelHolder

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["int8", "int4"]
Decoding = Literal["quick", "exact", "compiled"]
OPTIONS = tuple(name for name in LOAD_OPTIONS if name != "token")
"""The fields that say how a model is loaded; components share a model if these are the same."""


def _option(description: str, **bounds: Any) -> Any:
    return Field(default=None, frozen=True, description=description, **bounds)


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
    subfolder: str | None = _option("Inside it, e.g. `compression-16`.")
    revision: str | None = _option("Of the hub repository.")
    base_model: str | None = _option("Instead of the base model that the checkpoint names.")
    prompts: str | None = _option("A prompts file, instead of the checkpoint's.")
    device: str | None = _option("E.g. `cuda:0`, `cpu`; a GPU where there is one.")
    dtype: Dtype | None = _option("Default: bfloat16 if the device has it in hardware.")
    attn_implementation: str | None = _option("Default: `sdpa`.")
    quantization: Quantization | None = _option("Of the base model (GPU only).")
    decoding: Decoding | None = _option("`quick` or `exact` products on a CPU; `compiled` on a GPU.")
    batch_tokens: int | None = _option("Tokens in one batch at most; by the device if not given.", gt=0)
    batch_size: int | None = _option("Texts in one batch at most; by their length alone if not given.", gt=0)
    cache_bytes: int | None = _option("Bound of the shared cache of latents; 0 keeps none.", ge=0)
    long_documents: LongDocuments | None = _option("Longer texts: `split` (default), `truncate` or `error`.")
    cold: Cold | None = _option("Without latents yet: `compress` (default), or `text` now and latents later.")
    ranking: Ranking | None = _option("`latents`, or `hybrid` with shared words beside them; else the checkpoint's.")
    expand: int | None = _option("How many of what is read as text, best first; default: the checkpoint's.", ge=0)
    store: str | None = _option("A folder that keeps latents; what it holds is not compressed again.")
    engine_url: str | None = _option("Of a vLLM server that writes with the checkpoint's exported generator.")
    engine_api_key: str | None = _option(
        "Of that server; never saved. Default: `$CLARA_ENGINE_API_KEY`.", exclude=True, repr=False
    )
    engine_timeout: float | None = _option("Seconds that it may take for an answer (default: 300).", gt=0)

    _holder: ModelHolder = PrivateAttr()

    def __init__(self, model: Any = None, **fields: Any) -> None:
        """Take the model by position or by name, and the other fields by name; nothing is loaded."""
        super().__init__(**fields if model is None else {"model": model, **fields})

    @classmethod
    def class_name(cls) -> str:
        """Name under which the component is serialized."""
        return cls.__name__

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
        """How the model is loaded, by the names of `OPTIONS`."""
        return {name: getattr(self, name) for name in OPTIONS}

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

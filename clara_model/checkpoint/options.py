"""The one list of options: how a checkpoint is loaded, how a `Clara` works with it, how text is written.

Loaders, commands and framework components go by it. Naming the options needs neither torch nor transformers; resolving
them does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

from clara_model.defaults import CACHE_BYTES

if TYPE_CHECKING:
    import torch

    from clara_model.checkpoint.prompts import PromptSet
    from clara_model.store.protocol import LatentStore

LongDocuments = Literal["split", "truncate", "error"]
Cold = Literal["compress", "text"]
Ranking = Literal["latents", "hybrid"]


DECODINGS = ("quick", "exact", "compiled")


class LoadKeywords(TypedDict, total=False):
    """`LoadOptions` as keyword arguments."""

    subfolder: str | None
    revision: str | None
    base_model: str | Path | None
    prompts: str | Path | PromptSet | None
    dtype: torch.dtype | str | None
    device: torch.device | str | None
    attn_implementation: str | None
    quantization: str | None
    decoding: str | None
    token: str | None


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a checkpoint is loaded; equal resolved options of one checkpoint are one model in memory."""

    subfolder: str | None = None
    """Inside the folder or repository, e.g. ``compression-16``."""
    revision: str | None = None
    """Of the hub repository."""
    base_model: str | Path | None = None
    """Folder, hub name or GGUF file of the base model, instead of the one the checkpoint names."""
    prompts: str | Path | PromptSet | None = None
    """Instead of the checkpoint's: a `PromptSet`, or a file as for `PromptSet.from_file`."""
    dtype: torch.dtype | str | None = None
    """``float32``, ``bfloat16`` or ``float16``; by default bfloat16 where the device has it in hardware."""
    device: torch.device | str | None = None
    """E.g. ``cuda:0`` or ``cpu``; by default a GPU where there is one."""
    attn_implementation: str | None = None
    """As transformers names it: ``sdpa`` (default), ``eager``, ``flex_attention``, ``flash_attention_2`` to ``_4``, or
    a kernel that needs no build, e.g. ``kernels-community/flash-attn2``."""
    quantization: str | None = None
    """``int8`` or ``int4`` of the base (bitsandbytes, extra ``quantization``)."""
    decoding: str | None = None
    """How a CPU multiplies while it generates. ``quick``: a single position in float16, several in bfloat16, each where
    the machine is faster so; about two answers in a hundred differ from float32's. ``exact``: in the weights' own float
    type. By default ``quick``, but where ``dtype`` asks for float32 ``exact``. ``compiled``: on a GPU from recorded
    graphs, a question's own pass too; the first of each size waits for its graph."""
    token: str | None = field(default=None, compare=False, repr=False)
    """For private hub repositories. It says who may fetch, not what, so it does not tell models apart."""

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Self:
        """From keyword arguments.

        Raises:
            TypeError: an unknown one.
        """
        unknown = sorted(set(keywords) - set(NAMES))
        if unknown:
            raise TypeError(f"unknown load option {', '.join(unknown)}; known are {', '.join(NAMES)}")
        return cls(**keywords)

    def resolved(self) -> Self:
        """The same with defaults and names made into values: float type, device, attention, prompts.

        Raises:
            ClaraError: a device that is not here, or prompts that cannot be read.
            ValueError: an unknown float type or way of decoding.
        """
        from clara_model.checkpoint.devices import device_of, dtype_of
        from clara_model.checkpoint.prompts import PromptSet

        device = device_of(self.device)
        if self.decoding not in (None, *DECODINGS):
            raise ValueError(f"decoding must be one of {', '.join(DECODINGS)}, got {self.decoding!r}")
        dtype, asked = dtype_of(self.dtype, device), self.prompts
        prompts = asked if isinstance(asked, PromptSet) or asked is None else PromptSet.from_file(asked)
        return replace(
            self,
            base_model=None if self.base_model is None else str(self.base_model),
            prompts=prompts,
            dtype=dtype,
            device=device,
            attn_implementation=self.attn_implementation or "sdpa",
            decoding=self.decoding or ("quick" if self.dtype is None or dtype.itemsize == 2 else "exact"),
        )


NAMES = tuple(option.name for option in fields(LoadOptions))


class ClaraKeywords(TypedDict, total=False):
    """`ClaraOptions` as keyword arguments."""

    store: str | Path | LatentStore | None
    cache_bytes: int
    batch_tokens: int | None
    batch_size: int | None
    long_documents: LongDocuments
    cold: Cold
    ranking: Ranking | None
    expand: int | None
    engine_url: str | None
    engine_api_key: str | None
    engine_timeout: float | None


class ClaraLoadKeywords(LoadKeywords, ClaraKeywords, total=False):
    """Of `Clara.load`: both."""


@dataclass(frozen=True, kw_only=True)
class ClaraOptions:
    """How a `Clara` works with its model."""

    store: str | Path | LatentStore | None = None
    """Where latents are kept beyond the process: a folder or an opened store; nowhere by default."""
    cache_bytes: int = CACHE_BYTES
    """Bound of the cache in memory, which stands in front of the store and is shared like a loaded model; 0 keeps
    nothing."""
    batch_tokens: int | None = None
    """Positions in one encoder batch; by default `BATCH_TOKENS` of the device."""
    batch_size: int | None = None
    """Texts or prompts in one batch at most; no bound by default."""
    long_documents: LongDocuments = "split"
    """What becomes of a text with more than ``doc_max_length`` tokens: ``split`` reads it whole, in windows that end
    with sentences and count as its parts; ``truncate`` reads its start and says so in a warning; ``error`` refuses
    it."""
    cold: Cold = "compress"
    """What a question does where candidates have no latents yet: ``compress`` makes them first; ``text`` answers from
    the text of the best by shared words, by the base model alone, and makes the latents in the background for the next
    question, the third one at the latest. Where fewer are missing than are read, or where the checkpoint's compressor
    runs no base model (clara-small), they are compressed. `Answer.answered_from` says which it was."""
    ranking: Ranking | None = None
    """``latents`` ranks by the latents alone; ``hybrid`` adds, where texts are known, the share of the question's words
    that a candidate holds (BM25). By default what the checkpoint says: ``hybrid`` for clara-small, ``latents`` for
    published ones. `Ranked` has both parts."""
    expand: int | None = None
    """How many of the windows that are read enter the prompt as text, letter for letter, best first; the others as
    latents, but for those whose text is no longer than their slots: that is read too. By default what the checkpoint
    says: 1 for clara-small, 0 for published ones, which reads none. Fewer where the prompt has no room, none for
    latents whose texts are not known; `Answer.expanded` says how many."""
    engine_url: str | None = None
    """Address of a vLLM server that writes with this checkpoint's generator, as `clara export` has written it; this
    process compresses, ranks, and writes what is the base model's alone. Looked at when the model is loaded."""
    engine_api_key: str | None = field(default=None, repr=False)
    """Of that server; ``$CLARA_ENGINE_API_KEY`` by default."""
    engine_timeout: float | None = None
    """Seconds that it may take for an answer, or for the next piece of a stream; 300 by default."""


CLARA_NAMES = tuple(option.name for option in fields(ClaraOptions))
LOAD_OPTIONS = (*NAMES, *CLARA_NAMES)
"""Of `Clara.load`."""


def parted(keywords: Mapping[str, Any]) -> tuple[LoadOptions, ClaraOptions]:
    """The keyword arguments of `Clara.load`.

    Raises:
        TypeError: an unknown one.
    """
    own = {name: value for name, value in keywords.items() if name in CLARA_NAMES}
    unknown = sorted(set(keywords) - set(LOAD_OPTIONS))
    if unknown:
        raise TypeError(f"unknown load option {', '.join(unknown)}; known are {', '.join(LOAD_OPTIONS)}")
    return LoadOptions(**{name: value for name, value in keywords.items() if name in NAMES}), ClaraOptions(**own)


class GenerationKeywords(TypedDict, total=False):
    """How to write: of `Clara.answer` and every other call that writes. Greedy unless one says how to draw."""

    max_new_tokens: int
    """Most tokens to write."""
    stop: str | Sequence[str]
    """Strings that end the text; they are not part of it."""
    copy: bool
    """Whether the answer is a stretch of the texts that are read, word by word as it stands there, numbers whole: the
    one that the generator finds likeliest by its tokens, or that nothing answers, where the checkpoint was trained to
    say so. Only of `Clara.answer`, `answers` and `stream`, with ``max_new_tokens`` alone."""
    do_sample: bool | None
    temperature: float | None
    top_p: float | None
    sampling_top_k: int | None
    """transformers' ``top_k``, which counts documents here."""
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    min_new_tokens: int | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    seed: int | None
    """Of what is drawn; the random state outside stays as it was."""


GENERATION = tuple(GenerationKeywords.__annotations__)

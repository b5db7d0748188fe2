"""How many tokens texts have: by the tokenizer of a CLaRa checkpoint or a base model, or by words where there is none.

Special tokens are not counted, as `doc_max_length` does not count them. Only tokenizer files are read, never weights.
A long text is counted piece by piece, which takes a time in proportion to its length and may add a token at each seam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clara_model
from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.modeling.tokens import Tokens

DEFAULT_MODEL = "clara-tiny"
DOC_MAX_LENGTH = 256
PIECE = 16_384
"""Characters that are tokenised together."""
_BUNDLED, _CONFIG = Path(clara_model.__file__).parent / "bundled", "config.json"


@dataclass(frozen=True, kw_only=True)
class TokenCounter:
    """A way to count."""

    count: Callable[[Sequence[str]], list[int]]
    unit: str
    """What was counted, for people: ``tokens of clara-tiny`` or ``words``."""
    doc_max_length: int = DOC_MAX_LENGTH
    """Document tokens the model reads, where the name was that of a CLaRa checkpoint; else the paper's 256."""


def token_counter(name: str | None = None) -> TokenCounter:
    """The counter for a checkpoint, a base model or a tokenizer (a folder, a bundled or hub name); by default for the
    bundled model, or words if there is none.
    Raises `ClaraError`: no tokenizer of that name can be loaded.
    """
    if name is None:
        if not (_BUNDLED / DEFAULT_MODEL / _CONFIG).is_file():
            return TokenCounter(count=lambda texts: [len(text.split()) for text in texts], unit="words")
        name = DEFAULT_MODEL
    tokenizer, doc_max_length = _resolve(name)
    return TokenCounter(count=_load(tokenizer), unit=f"tokens of {name}", doc_max_length=doc_max_length)


def _config_of(name: str) -> tuple[Path, dict[str, Any]]:
    """Where a folder's or bundled name's files lie, and its configuration; empty for any other name."""
    from clara_model.checkpoint.config import read_json

    local = Path(name).expanduser()
    folder = local if local.is_dir() else _BUNDLED / name
    return folder, read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}


def _resolve(name: str) -> tuple[str, int]:
    """Where the tokenizer lies, and the document length: of a CLaRa checkpoint its base model's, else the name."""
    from clara_model.checkpoint.base_model import resolve_base

    folder, values = _config_of(name)
    base = values.get("base_model") or values.get("decoder_model_name")
    if base is None:
        return str(folder) if folder.is_dir() else name, DOC_MAX_LENGTH
    return resolve_base(str(base), folder), int(values.get("doc_max_length", DOC_MAX_LENGTH))


def tokens_of(name: str, doc_max_length: int = DOC_MAX_LENGTH) -> Tokens:
    """What a checkpoint, or a new one on a base model at the paper's rate of 32, makes of texts; no weights are read.
    Raises `ClaraError`: no tokenizer of that name can be loaded, or it has no chat template.
    """
    from clara_model.checkpoint.config import ClaraConfig, from_published
    from clara_model.checkpoint.prompts import PromptSet
    from clara_model.modeling.tokens import Tokens

    _, values = _config_of(name)
    if "format" in values:
        config = ClaraConfig.from_dict(values)
    elif "compr_rate" in values:
        config = from_published(values, ("compressor", "generator"), PromptSet())
    else:
        config = ClaraConfig(base_model=name, doc_max_length=doc_max_length, roles=("compressor", "generator"))
    return Tokens(_tokenizer(_resolve(name)[0]), config)


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClaraError(f"no tokenizer can be loaded from {name!r} ({first}); give a folder or a hub name") from error


def _load(name: str) -> Callable[[Sequence[str]], list[int]]:
    from clara_model.modeling.plain_text import clean_text

    tokenizer = _tokenizer(name)

    def count(texts: Sequence[str]) -> list[int]:
        parts = [(place, part) for place, text in enumerate(texts) for part in pieces(clean_text(text))]
        counts = [0] * len(texts)
        if parts:
            encoded = tokenizer([part for _, part in parts], add_special_tokens=False, verbose=False)
            for (place, _), ids in zip(parts, encoded["input_ids"], strict=True):
                counts[place] += len(ids)
        return counts

    return count


def pieces(text: str) -> Iterator[str]:
    """A text in parts of at most `PIECE` characters, which end before a blank where there is one."""
    start = 0
    while len(text) - start > PIECE:
        blank = text.rfind(" ", start + 1, start + PIECE)
        end = blank if blank > 0 else start + PIECE
        yield text[start:end]
        start = end
    yield text[start:]

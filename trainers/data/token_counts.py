"""How many tokens texts have: by the tokenizer of a CLaRa checkpoint or a base model, or by words where there is none.

Special tokens are not counted, as `doc_max_length` does not count them. Only tokenizer files are read, never weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import clara_model
from clara_model.errors import ClaraError

DEFAULT_MODEL = "clara-tiny"
DOC_MAX_LENGTH = 256
_BUNDLED, _CONFIG = Path(clara_model.__file__).parent / "bundled", "config.json"


@dataclass(frozen=True, kw_only=True)
class TokenCounter:
    """A way to count."""

    count: Callable[[Sequence[str]], list[int]]
    """Tokens of each text."""
    unit: str
    """What was counted, for people: ``tokens of clara-tiny`` or ``words``."""
    doc_max_length: int = DOC_MAX_LENGTH
    """Document tokens the model reads, where the name was that of a CLaRa checkpoint; else the paper's 256."""


def token_counter(name: str | None = None) -> TokenCounter:
    """The counter for a checkpoint, a base model or a tokenizer.

    Args:
        name: a folder, a bundled name or a hub name; by default the bundled model's, or words if there is none.

    Raises:
        ClaraError: no tokenizer of that name can be loaded.
    """
    if name is None:
        if not (_BUNDLED / DEFAULT_MODEL / _CONFIG).is_file():
            return TokenCounter(count=lambda texts: [len(text.split()) for text in texts], unit="words")
        name = DEFAULT_MODEL
    tokenizer, doc_max_length = _resolve(name)
    return TokenCounter(count=_load(tokenizer), unit=f"tokens of {name}", doc_max_length=doc_max_length)


def _resolve(name: str) -> tuple[str, int]:
    """Where the tokenizer lies, and the document length: of a CLaRa checkpoint its base model's, else the name."""
    from clara_model.checkpoint.base_model import resolve_base
    from clara_model.checkpoint.config import read_json

    local = Path(name).expanduser()
    folder = local if local.is_dir() else _BUNDLED / name
    if not (folder / _CONFIG).is_file():
        return str(local) if local.is_dir() else name, DOC_MAX_LENGTH
    values = read_json(folder / _CONFIG)
    base = values.get("base_model") or values.get("decoder_model_name")
    if base is None:
        return str(folder), DOC_MAX_LENGTH
    return resolve_base(str(base), folder), int(values.get("doc_max_length", DOC_MAX_LENGTH))


def _load(name: str) -> Callable[[Sequence[str]], list[int]]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClaraError(f"no tokenizer can be loaded from {name!r} ({first}); give a folder or a hub name") from error

    def count(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    return count

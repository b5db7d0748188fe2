"""What a generation returns, read from the ids that the base model gave.

Shapes: ``B`` prompts, ``T`` new ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Generated:
    """What `ClaraModel.generate` returns, one entry for each prompt."""

    texts: list[str]
    ids: Tensor
    """New tokens ``[B, T]``; a row that ended early is filled with the pad id."""
    prompt_tokens: list[int]
    completion_tokens: list[int]
    finish_reasons: list[str]
    """``stop`` (end token or stop string) or ``length``."""


def read_generated(
    tokenizer: PreTrainedTokenizerFast,
    new_ids: Tensor,
    prompt_tokens: list[int],
    ends: int | Sequence[int] | None,
    stop: Sequence[str],
) -> Generated:
    """Texts, counts and finish reasons of new ids ``[B, T]``; a text is cut at its first stop string."""
    end_ids = {ends} if isinstance(ends, int) else set(ends or ())
    texts, counts, reasons = [], [], []
    for row in new_ids.tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in end_ids), len(row))
        ended = end > 0 and row[end - 1] in end_ids
        text = str(tokenizer.decode(row[:end], skip_special_tokens=True))
        cuts = [text.find(s) for s in stop if s in text]
        if cuts and not ended:
            ended = True
            while end and row[end - 1] == tokenizer.pad_token_id:  # a stop string leaves no end token behind
                end -= 1
        texts.append(text[: min(cuts)] if cuts else text)
        counts.append(end)
        reasons.append("stop" if ended else "length")
    return Generated(texts, new_ids, prompt_tokens, counts, reasons)


@contextmanager
def contiguous_inputs(layer: nn.Module) -> Iterator[None]:
    """Have a layer's input copied together inside the block.

    The last position of several prompts is a view with gaps, for which torch multiplies batch by batch with a frozen
    weight: the output layer then reads its large matrix several times.
    """
    hook = layer.register_forward_pre_hook(lambda _, args: tuple(tensor.contiguous() for tensor in args))
    try:
        yield
    finally:
        hook.remove()

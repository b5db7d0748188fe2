"""What a generation returns, read from the ids that the base model gave.

Shapes: ``B`` prompts, ``T`` new ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, PreTrainedTokenizerFast


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
    confidences: list[float | None]
    """From 0 to 1: with a generator that was trained to write ``no_answer`` where nothing answers the question, by its
    `Certainty`; else the geometric mean of the likelihoods of a text's tokens, its end among them."""


class Likelihood(LogitsProcessor):
    """Notes how likely each new token was among all that could have come.

    A token is known one step after its scores, so only those of one step are kept. Not for beams, whose rows change.
    """

    def __init__(self, no_answer: int | None = None, shifts: Sequence[float] = ()) -> None:
        """``no_answer`` is the first token of the text that says that there is no answer; its logit gains ``shifts``,
        one for each row."""
        self._no_answer, self._shifts = no_answer, shifts
        self.answer_odds: list[float] | None = None
        """The logarithm of how much likelier the best other first token is, for each row."""
        self._last: Tensor | None = None
        self._logs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Keep the scores ``[B, V]``, and of those before them the ones of the tokens that were taken."""
        self._note(input_ids)
        self._last = torch.log_softmax(scores.float(), dim=-1)
        if self._no_answer is None:
            return scores
        if self.answer_odds is None:
            none = self._last[:, self._no_answer]
            others = self._last.index_fill(1, torch.tensor([self._no_answer], device=scores.device), -torch.inf)
            self.answer_odds = (others.amax(dim=1) - none).tolist()
        shifted = scores.clone()
        shifted[:, self._no_answer] += torch.tensor(self._shifts, device=scores.device)
        return shifted

    def logs(self, new_ids: Tensor) -> Tensor:
        """The logarithm of each new token's likelihood, ``[B, T]`` float32; behind a row's end it means nothing."""
        self._note(new_ids)
        return torch.cat(self._logs, dim=1)

    def _note(self, ids: Tensor) -> None:
        if self._last is not None:
            self._logs.append(self._last.gather(1, ids[:, -1:]))


def read_generated(
    tokenizer: PreTrainedTokenizerFast,
    new_ids: Tensor,
    prompt_tokens: list[int],
    ends: int | Sequence[int] | None,
    stop: Sequence[str],
    logs_BT: Tensor | None = None,
    certain: Sequence[float] | None = None,
) -> Generated:
    """Texts, counts and finish reasons of new ids ``[B, T]``; a text is cut at its first stop string.

    ``logs_BT`` are the logarithms of their likelihoods, where they were noted; ``certain`` the confidences by
    `Certainty`, where the generator was trained to write that nothing answers.
    """
    end_ids = {ends} if isinstance(ends, int) else set(ends or ())
    texts, counts, reasons = [], [], []
    confidences: list[float | None] = []
    for number, row in enumerate(new_ids.tolist()):
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
        if logs_BT is None or not end:
            confidences.append(None)
        elif certain is not None:
            confidences.append(certain[number])
        else:
            confidences.append(float(logs_BT[number, :end].mean().exp()))
    return Generated(texts, new_ids, prompt_tokens, counts, reasons, confidences)


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

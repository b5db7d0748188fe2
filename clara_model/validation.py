"""Checks of what a caller asks for: questions, candidates, numbers, sampling. An error is one sentence with the value.

Leaves out what the model itself checks: slots that do not fit a prompt, latents of another checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from clara_model.checkpoint.config import MAX_NEW_TOKENS
from clara_model.latents import Latents

Documents = Sequence[str] | Latents
"""Candidates: their texts, or their latents where they have been compressed before."""


SAMPLING = (
    *("do_sample", "temperature", "top_p", "sampling_top_k", "min_p", "typical_p", "repetition_penalty"),
    *("no_repeat_ngram_size", "min_new_tokens", "num_beams", "length_penalty", "early_stopping", "seed"),
)
"""Sampling arguments by transformers' names; its ``top_k`` is ``sampling_top_k`` (``top_k`` counts documents)."""


def check_text(text: object, what: str) -> str:
    """The text, if it is one."""
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a string, got {type(text).__name__}")
    return text


def check_texts(texts: object, what: str = "document") -> list[str]:
    """A list of texts: at least one; each may be empty."""
    if isinstance(texts, str):
        raise TypeError(f"expected a list of {what}s, got one string; put it in a list")
    if not isinstance(texts, Sequence):
        raise TypeError(f"expected a list of {what}s, got {type(texts).__name__}")
    if not texts:
        raise ValueError(f"expected at least one {what}, got none")
    return [check_text(text, f"{what} {number} of {len(texts)}") for number, text in enumerate(texts, start=1)]


def check_documents(documents: object) -> list[str] | Latents:
    """The candidates of one question: at least one."""
    if not isinstance(documents, Latents):
        return check_texts(documents)
    if not len(documents):
        raise ValueError("expected the latents of at least one document, got none")
    return documents


def check_question(question: object) -> str:
    """A question that says something."""
    if not check_text(question, "question").strip():
        raise ValueError(f"the question is blank ({question!r}); ask something")
    return str(question)


def check_rows(texts: object, questions: int) -> list[list[str] | Latents]:
    """The candidates of each question, which are one and the same object where all questions share them."""
    if isinstance(texts, Latents) or not _is_rows(texts):
        return [check_documents(texts)] * questions
    assert isinstance(texts, Sequence)
    if len(texts) != questions:
        raise ValueError(f"need a list of documents for each question, got {len(texts)} for {questions} questions")
    rows = []
    for index, row in enumerate(texts):
        try:
            rows.append(check_documents(row))
        except (TypeError, ValueError) as error:
            raise type(error)(f"question {index}: {error}") from None
    return rows


def _is_rows(texts: object) -> bool:
    if not isinstance(texts, Sequence) or isinstance(texts, str):
        return False
    return any(isinstance(row, Latents) or (isinstance(row, Sequence) and not isinstance(row, str)) for row in texts)


def check_turns(prompt: object) -> list[Mapping[str, str]]:
    """The conversation that a prompt is: one user's turn, or messages with a role and a content."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence):
        raise TypeError(f"expected a prompt or a list of messages, got {type(prompt).__name__}")
    if not prompt:
        raise ValueError("expected at least one message, got none")
    for turn in prompt:
        if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
            raise TypeError(f"a message must have a role and a content, got {turn!r}")
        check_text(turn["content"], "message content")
    return list(prompt)


def check_count(value: object, what: str) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, got {value}")
    return value


@dataclass(frozen=True)
class Generation:
    """How to generate: the checked form of ``max_new_tokens``, ``stop`` and the sampling arguments."""

    max_new_tokens: int = MAX_NEW_TOKENS
    stop: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @classmethod
    def check(cls, max_new_tokens: int, stop: str | Sequence[str], sampling: Mapping[str, Any]) -> Self:
        """Check them; a temperature above 0 means sampling unless ``do_sample`` says otherwise, 0 means greedy."""
        unknown = sorted(set(sampling) - set(SAMPLING))
        if unknown:
            raise TypeError(f"unknown sampling argument {', '.join(unknown)}; known are {', '.join(SAMPLING)}")
        values = {name: value for name, value in sampling.items() if value is not None}
        seed, temperature = values.pop("seed", None), values.get("temperature")
        if temperature is not None and temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        if temperature == 0:
            values["do_sample"] = False
        elif {"temperature", "top_p", "sampling_top_k", "min_p", "typical_p"} & set(values):
            values.setdefault("do_sample", True)
        if not values.get("do_sample", False):
            for name in ("temperature", "top_p", "sampling_top_k", "min_p", "typical_p"):
                values.pop(name, None)
        if "sampling_top_k" in values:
            values["top_k"] = values.pop("sampling_top_k")
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(text, str) and text for text in stops):
            raise ValueError(f"stop must hold strings that are not empty, got {list(stops)!r}")
        return cls(check_count(max_new_tokens, "max_new_tokens"), stops, values, seed)

    def arguments(self) -> dict[str, Any]:
        """For `ClaraModel.generate_ids`."""
        return {"max_new_tokens": self.max_new_tokens, "stop": self.stop, **self.sampling}

    @contextmanager
    def seeded(self, device: torch.device) -> Iterator[None]:
        """Draw from this seed inside the block, and leave the random state outside as it was."""
        if self.seed is None:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            yield

"""What `Clara` gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from clara_model.windows import Window


@dataclass(frozen=True)
class Ranked:
    """One candidate: its index in the texts that were given, and its cosine with the question."""

    index: int
    score: float
    """Of a text that is read in windows: the best window's."""
    window: Window | None = None
    """That window; None where the text is read in one."""


@dataclass(frozen=True)
class Usage:
    """What an answer was read from and written with, in tokens."""

    text_tokens: int = 0
    """Text tokens of the selected documents or windows, which their latents stand for."""
    slots: int = 0
    """Memory tokens that the generator read in their place."""
    prompt_tokens: int = 0
    """The generator's whole prompt, slots included."""
    completion_tokens: int = 0
    """New tokens, the end token included."""
    read_tokens: int = 0
    """Text tokens of all candidates that were read, now or when they were compressed before."""


@dataclass(frozen=True)
class Timings:
    """Seconds spent in each phase, waiting for other threads left out."""

    compress: float = 0.0
    query: float = 0.0
    rank: float = 0.0
    generate: float = 0.0

    @property
    def total(self) -> float:
        """All phases."""
        return self.compress + self.query + self.rank + self.generate


@dataclass(frozen=True)
class Answer:
    """An answer and where it came from."""

    text: str
    ranking: list[Ranked]
    """All candidates, best first; empty where the checkpoint has no query reasoner to rank with."""
    selected: list[int]
    """Indices of the documents that the generator read, best first; one comes as often as it read a window of it."""
    usage: Usage
    timings: Timings
    """Of a batch of questions: this question's equal share."""
    finish_reason: str
    """``stop`` (end token or stop string) or ``length``."""
    windows: list[Window] = field(default_factory=list)
    """What the generator read of each document in ``selected``: the whole of it, or one of its windows."""

    @property
    def citations(self) -> list[str]:
        """What the generator read, in words: ``document 3``, or ``document 3, window 2`` of one that is long."""
        return [window.citation for window in self.windows]

"""What `Clara` gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, overload

from clara_model.inference.quotes import Quote
from clara_model.latents import Latents
from clara_model.windows import Window


@dataclass(frozen=True, repr=False)
class Ranked:
    """One candidate: its index in the texts that were given, and its score.

    It prints as ``Ranked(index=2, score=0.787, by='both', latents=0.512, words=0.275)``: numbers to three places, and
    nothing that is None.
    """

    index: int
    score: float
    """How well it fits the question; of a text that is read in windows, the best window's. Compare it with scores of
    the same checkpoint and ``by``, of any question; a word weighs by how rare it is among a question's candidates."""
    window: Window | None = None
    """That window; None where the text is read in one."""
    by: Literal["latents", "both", "words"] = "latents"
    """What the score is made of: ``latents``; ``both``, which is ``latents + word_weight * words``; or ``words`` where
    there were no latents yet (``cold="text"``)."""
    latents: float | None = None
    """The checkpoint's score of its latents with the question's, from -1 to 1; None where there were none yet."""
    words: float | None = None
    """The share of the question's words that it holds (BM25), from 0 to 1; None where words were not looked at."""
    text: str | None = None
    """Where ``return_documents`` asked for it."""

    def __repr__(self) -> str:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        shown = {name: f"{value:.3f}" if isinstance(value, float) else repr(value) for name, value in values.items()}
        return f"Ranked({', '.join(f'{name}={shown[name]}' for name in shown if values[name] is not None)})"


@dataclass(frozen=True)
class Usage:
    """What an answer was read from and written with, in tokens."""

    text_tokens: int = 0
    """Text tokens of the selected documents or windows."""
    slots: int = 0
    """Memory tokens that the generator read in place of those that are not ``expanded_tokens``."""
    prompt_tokens: int = 0
    """The generator's whole prompt, slots included."""
    completion_tokens: int = 0
    """New tokens, the end token included."""
    read_tokens: int = 0
    """Text tokens of all candidates that were read, now or when they were compressed before."""
    expanded_tokens: int = 0
    """Of ``text_tokens``, those that entered the prompt as text (``expand``, or ``answered_from`` text)."""


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
    """All candidates, best first; empty where the checkpoint has no query reasoner to rank with, or nothing was
    ranked."""
    selected: list[int]
    """Indices of the documents that the generator read, best first; one comes as often as it read a window of it."""
    usage: Usage
    timings: Timings
    """Of a batch of questions: this question's equal share."""
    finish_reason: str
    """``stop`` (end token or stop string) or ``length``."""
    windows: list[Window] = field(default_factory=list)
    """What the generator read of each document in ``selected``: the whole of it, or one of its windows."""
    answered_from: Literal["latents", "text"] = "latents"
    """``text`` where the base model alone has read text: candidates without latents (``cold="text"``), or a prompt."""

    expanded: int = 0
    """How many of ``windows`` the generator read as text: the first ``expand``, and with these any that are so short
    that their text takes no more of the prompt than their slots; the others as latents."""
    confidence: float | None = None
    """From 0 to 1. With a checkpoint that was trained to say that nothing answers (`PromptSet.no_answer`), how likely
    it is that what was read answers, by its generator and the ranking (`Certainty`). With any other, how likely the
    model that wrote the answer found it: the geometric mean over its tokens, not calibrated: compare it with that of
    other answers of the checkpoint. None where it is not measured (beams)."""
    no_answer: bool = False
    """Whether the generator wrote that nothing it read answers the question."""
    quotes: list[Quote] = field(default_factory=list)
    """Where runs of the answer's words stand in what was read; none where the texts are not known."""
    unsupported: list[str] | None = None
    """Numbers and names of the answer that stand neither in the question nor in what was read; None where the texts are
    not known (latents of a file)."""

    def found(self, min_confidence: float) -> bool:
        """Whether there is an answer, and of at least this confidence where that is measured."""
        return not self.no_answer and (self.confidence is None or self.confidence >= min_confidence)

    @property
    def citations(self) -> list[str]:
        """What the generator read, in words: ``document 3``, or ``document 3, window 2`` of one that is long."""
        return [window.citation for window in self.windows]


@dataclass(frozen=True)
class Found:
    """One window that a search in a store has found."""

    score: float
    """How well it fits the question, as in a ranking; a word weighs by how rare it is in the store."""
    text: str | None
    """None where the store keeps no texts."""
    document: str | None
    """Id of the document it stands in, the first by name where there are several; None where it was put in alone."""
    window: int
    """Which of the document's windows, from 0."""
    start: int
    """Character of the document where it begins."""
    end: int
    """Character of the document before which it ends."""
    metadata: Mapping[str, Any]
    """Of the document."""
    length: int
    """Text tokens that its latents stand for."""
    latents: float
    """Of the score, what the whole latents give (see `Ranked`)."""
    words: float | None = None
    """The share of the question's words that it holds; None where words were not looked at."""

    @property
    def citation(self) -> str:
        """Where it stands, in words: ``notes.txt, passage 3``."""
        return "(no document)" if self.document is None else f"{self.document}, passage {self.window + 1}"

    @property
    def id(self) -> str:
        """A name that no other passage of the store has, the same in every search."""
        return self.citation if self.document is not None else hashlib.sha256((self.text or "").encode()).hexdigest()


@dataclass(frozen=True)
class SearchResults(Sequence[Found]):
    """What a search has found, best first; ``latents`` in the same order answer a question without another pass."""

    found: tuple[Found, ...]
    latents: Latents | None
    """None where nothing was found."""
    timings: Timings = field(default=Timings(), compare=False)
    """``query`` for the question's pass, ``rank`` for the search."""

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Found]:
        return iter(self.found)

    @overload
    def __getitem__(self, index: int) -> Found: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Found]: ...
    def __getitem__(self, index: int | slice) -> Found | Sequence[Found]:
        return self.found[index]

"""Candidates from a store: rows with a question and no documents get the passages that `Clara.search` finds for it.

This is the published ``stage2_mips`` before the run and not in each of its steps: the compressor is frozen in stage 3,
so only the query reasoner moves on; where it has moved far, the same command with the new checkpoint and the same store
fetches candidates anew. Documents that a row brings along stay its first ones, so that its ``pos_index`` holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clara_model.errors import ClaraError
from trainers.data.convert import holds_answer
from trainers.data.jsonl import values_of
from trainers.data.negatives import BM25Search
from trainers.data.row import DOCUMENTS, Row, parse_row

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

BY = ("latents", "bm25")
_SPARE = 4
"""Passages that are looked at for each place of a row that knows its gold documents: those that answer it are none."""
Nearest = Callable[[str, int], list[str]]
"""Texts of the passages that are nearest to a question, at most so many, nearest first."""


@dataclass
class Retriever:
    """Fills rows up with passages of a store; what it did is in ``counts``."""

    nearest: Nearest
    candidates: int = 20
    """Documents per row (paper: 20)."""
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ClaraError(f"candidates must be at least 1, got {self.candidates}")

    def rows(self, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
        """The rows of some files with their candidates; a `ClaraError` names a line without a single question."""
        for place, values in (one for file in files for one in values_of(file)):
            try:
                yield self._filled(values)
            except ClaraError as error:
                raise ClaraError(f"{place}: {error}") from error

    def _filled(self, values: object) -> dict[str, Any]:
        row, given = _question(values)
        assert isinstance(values, dict)
        self.counts["questions read"] += 1
        docs = list(given)
        room = self.candidates - len(docs)
        found = self._found(row, docs, room) if room > 0 else []
        self.counts["candidates from the store"] += len(found)
        docs += found
        if not docs:
            raise ClaraError(f"nothing was found in the store for the question {row.questions[0]!r}")
        self.counts["rows with fewer candidates"] += len(docs) < self.candidates
        return {**{name: value for name, value in values.items() if name not in DOCUMENTS}, "docs": docs}

    def _found(self, row: Row, docs: Sequence[str], room: int) -> list[str]:
        """New passages; where the row knows its gold documents, none that holds the answer word for word."""
        answers = row.references or row.answers
        wanted = room + len(docs)
        passages = self.nearest(row.questions[0], _SPARE * wanted if row.positives else wanted)
        known = set(docs)
        new = [text for text in dict.fromkeys(passages) if text not in known]
        if row.positives:
            new = [text for text in new if not holds_answer(text, answers)]
        return new[:room]


def _question(values: object) -> tuple[Row, Sequence[str]]:
    """A row, which may lack documents, and those it brings."""
    bare = isinstance(values, dict) and not any(values.get(name) for name in DOCUMENTS)
    row = parse_row({**values, "docs": [""]} if bare and isinstance(values, dict) else values, prefer_gold=True)
    if row.kind == "paraphrase" or len(row.questions) != 1 or not row.questions[0].strip():
        raise ClaraError("candidates are searched for one question in each row, which is not blank")
    return row, () if bare else row.documents


def by_latents(clara: Clara) -> Nearest:
    """`Clara.search` in the store that a checkpoint was loaded with; a `ClaraError` where it cannot rank."""
    if not clara.can_rank:
        said = f"{clara.name!r} has no query reasoner to search with"
        raise ClaraError(f"{said}; use a checkpoint of stage end_to_end, or --by bm25")
    return lambda question, count: [_text(one.text) for one in clara.search(question, count)]


def by_bm25(clara: Clara) -> Nearest:
    """BM25 over the texts of that store, for the first run of stage 3: a checkpoint before it cannot search."""
    from clara_model.store.cache import durable  # with torch, which a command that reads files does without

    store = durable(clara.store)
    assert store is not None
    texts = [_text(row.block.text) for row in store.iterate()]
    search = BM25Search(texts)
    return lambda question, count: [texts[number] for number in search.nearest([question], count)[0]]


def _text(text: str | None) -> str:
    if text is None:
        raise ClaraError("the store keeps no texts, so that rows cannot be filled from it; compress without --no-text")
    return text

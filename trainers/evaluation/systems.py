"""The systems that are compared: which passages a system reads, and in which form.

| name | reads | chosen by |
|---|---|---|
| ``clara`` | latents, and as text what the checkpoint says | the checkpoint (before stage 3: as retrieved) |
| ``clara:N`` | the best N passages as text, the others as latents | the same |
| ``best`` | the best passage as text, nothing else; by the generator | the same |
| ``text`` | the same passages as text | the same |
| ``closed`` | nothing | |
| ``first`` | text | as retrieved |
| ``bm25`` | text | BM25 |
| ``bi:MODEL``, ``cross:MODEL`` | text | a sentence-transformers model |
| ``llmlingua``, ``llmlingua:MODEL`` | the passages of ``text``, shortened by LLMLingua-2 | the same |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clara_model.errors import ClaraError
from trainers.evaluation.answerers import LLMLINGUA, Budget, FromLatents, FromShortenedText, FromText, Reader
from trainers.evaluation.questions import Question
from trainers.evaluation.rankers import AsRetrieved, ByBM25, ByCrossEncoder, ByLatents, ByVectors, Ranker

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

PLAIN = ("clara", "best", "closed", "text", "first", "bm25", "llmlingua")
WITH_MODEL = ("bi", "cross", "llmlingua")
DEFAULT = ("clara", "closed", "text", "first", "bm25")
RANKING_STAGE = "stage2"


@dataclass(frozen=True)
class System:
    """One of the compared."""

    name: str
    ranker: Ranker | None
    """None where nothing is read."""
    reader: Reader


def label(name: str) -> str:
    """The name under which a system is recorded: a model's folder is named by its last two parts."""
    kind, colon, model = name.partition(":")
    return kind + colon + "/".join(Path(model).parts[-2:]) if model and Path(model).is_dir() else name


def check_names(names: Sequence[str]) -> list[str]:
    """The names of systems, each once.

    Raises:
        ClaraError: an unknown one, with those there are.
    """
    for name in names:
        kind, _, model = name.partition(":")
        if name not in PLAIN and not (kind in WITH_MODEL and model) and not (kind == "clara" and model.isdecimal()):
            raise ClaraError(f"unknown system {name!r}; there are {', '.join(PLAIN)}, clara:N, bi:MODEL, cross:MODEL")
    return list(dict.fromkeys(names))


class Systems:
    """Makes systems for one evaluation; a ranker that several use is made once."""

    def __init__(
        self,
        clara: Clara,
        questions: Sequence[Question],
        budget: Budget,
        *,
        stage: str,
        gold_first: bool,
        reader: Clara | None = None,
    ) -> None:
        """What all systems share.

        Args:
            clara: the checkpoint.
            questions: all of the evaluation, whichever process answers them.
            budget: of every prompt.
            stage: in ``stage2`` the checkpoint ranks; before, documents are read as retrieved.
            gold_first: the oracle setting: gold documents are among those that are read as retrieved.
            reader: a text reader's checkpoint, which reads text in the base model's place.

        Raises:
            ClaraError: ``stage2`` with a checkpoint that cannot rank.
        """
        self._clara, self._questions, self._budget, self._reader = clara, questions, budget, reader
        self._as_retrieved = AsRetrieved(budget.top_k, gold=gold_first)
        self._own: Ranker = self._as_retrieved
        self._bm25: ByBM25 | None = None
        if stage == RANKING_STAGE:
            if not clara.can_rank:
                raise ClaraError(f"{clara.name} has no query reasoner to rank with; use --stage stage1 or stage1_2")
            self._own = ByLatents(clara)

    def make(self, name: str) -> System:
        """The system of a name that `check_names` has let through."""
        kind, _, model = name.partition(":")
        shown = label(name)
        clara, budget, reader = self._clara, self._budget, self._reader
        if kind == "clara":
            return System(shown, self._own, FromLatents(clara, budget, int(model) if model else None))
        if kind == "best":
            return System(shown, self._own, FromLatents(clara, replace(budget, top_k=1), expand=1))
        if kind == "closed":
            return System(shown, None, FromText(clara, budget, reader, closed=True))
        if kind == "llmlingua":
            return System(shown, self._own, FromShortenedText(clara, budget, reader, model or LLMLINGUA))
        rankers = {"text": self._own, "first": self._as_retrieved}
        return System(shown, rankers.get(kind) or self._baseline(kind, model), FromText(clara, budget, reader))

    def _baseline(self, kind: str, model: str) -> Ranker:
        if kind == "bi":
            return ByVectors(model)
        if self._bm25 is None:
            pools = {id(question.pool): question.pool.passages for question in self._questions}
            self._bm25 = ByBM25([text for pool in pools.values() for text in pool], len(self._questions))
        return self._bm25 if kind == "bm25" else ByCrossEncoder(model, self._bm25)

"""Texts by the words that they share with a question: BM25, the one of this house.

The bm25s package's with its usual constants (k1 1.5, b 0.75); words are those of ``\\w+`` in lower case, without what
English says everywhere, each without its ending (Snowball's English stems: ``filters`` is ``filter``). Leaves out
other languages' endings, and languages that put no spaces between words.
Source: Robertson and Zaragoza, The Probabilistic Relevance Framework (2009), equation 3.15, in Lucene's form.
Shapes: ``N`` texts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_SATURATION, _LENGTH = 1.5, 0.75
"""``k1`` and ``b``."""


class BM25:
    """An index of some texts.

    ``BM25(["the tide clock", "a copper mill"]).scores("Whose clock?")``
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Index the texts; a word's weight comes from how many of them hold it."""
        self._size = len(texts)
        tokens = _words(list(texts), return_ids=True)
        self._vocabulary: dict[str, int] = tokens.vocab
        self._index: Any = None
        if any(len(ids) for ids in tokens.ids):
            import bm25s

            self._index = bm25s.BM25(k1=_SATURATION, b=_LENGTH)
            self._index.index(tokens, show_progress=False)
        held = [number for ids in tokens.ids for number in set(ids)]
        self._holding = np.bincount(np.array(held, dtype=np.int64), minlength=len(self._vocabulary) + 1)

    def scores(self, question: str) -> np.ndarray:
        """The score of each text, ``[N]`` float64: 0 where it shares no word with the question, and no upper bound."""
        return self._scores(_words([question])[0])

    def shares(self, question: str) -> np.ndarray:
        """The scores as shares of the highest that any text could have, ``[N]`` float64 from 0 to below 1.

        A word counts as often as it stands in the question; one that no text holds counts in what could be had.
        """
        asked = _words([question])[0]
        holding = np.array([self._holding[self._vocabulary.get(word, -1)] for word in asked], dtype=np.float64)
        most = float(np.log(1 + (self._size - holding + 0.5) / (holding + 0.5)).sum())
        return self._scores(asked) / (most or 1.0)

    def best(self, question: str, k: int) -> list[int]:
        """At most ``k`` texts that share a word with the question, best first; equal scores in the order given."""
        scores_N = self.scores(question)
        return [int(number) for number in largest(scores_N, k) if scores_N[number] > 0]

    def _scores(self, asked: list[str]) -> np.ndarray:
        known = [word for word in asked if word in self._vocabulary]
        if self._index is None or not known:
            return np.zeros(self._size)
        return np.asarray(self._index.get_scores(known), dtype=np.float64)


@dataclass(frozen=True)
class Rarity:
    """How rare words are among texts that are not all at hand, as those of a store."""

    size: int
    """How many texts there are."""
    length: float
    """Words of a text on average."""
    holding: Mapping[str, int]
    """How many texts hold a word; it lacks those that none holds."""

    def shares(self, question: str, texts: Sequence[str]) -> list[float]:
        """What `BM25.shares` gives for some of the texts."""
        asked = words_of(question)
        weights = {word: math.log((self.size + 1) / (self.holding.get(word, 0) + 0.5)) for word in asked}
        most = sum(weights[word] for word in asked) or 1.0
        found = []
        for text in texts:
            counts = Counter(words_of(text))
            half = _SATURATION * (1 - _LENGTH + _LENGTH * counts.total() / (self.length or 1.0))
            found.append(sum(weights[word] * counts[word] / (counts[word] + half) for word in asked) / most)
        return found


def largest(values_N: np.ndarray, count: int) -> np.ndarray:
    """The places of the largest values, the largest first, equal ones in their order."""
    chosen = np.sort(np.argpartition(-values_N, count)[:count]) if count < len(values_N) else np.arange(len(values_N))
    return np.asarray(chosen[np.argsort(-values_N[chosen], kind="stable")])


def words_of(text: str) -> list[str]:
    """The words of a text that count, in order, without their endings."""
    return list(_words([text])[0])


def shared_words(question: str, text: str) -> float:
    """The share of the question's words that stand in a text, from 0 to 1."""
    asked, there = set(words_of(question)), set(words_of(text))
    return len(asked & there) / len(asked) if asked else 0.0


def _words(texts: list[str], *, return_ids: bool = False) -> Any:
    import bm25s  # not before words are looked at
    import Stemmer

    return bm25s.tokenize(
        texts, stopwords="en_plus", token_pattern=r"\w+", return_ids=return_ids, show_progress=False,
        stemmer=Stemmer.Stemmer("english"),  # one for each call: threads may not share it
    )  # fmt: skip

"""Texts ranked by the words that they share with a question: BM25 over the candidates themselves, without any model.

For candidates whose latents are not there yet. Leaves out stems, stop words and languages that put no spaces between
words: a word's rarity among the candidates is all that weighs it. Source: Robertson and Zaragoza, The Probabilistic
Relevance Framework (2009), equation 3.15, with its usual constants.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_SATURATION, _LENGTH = 1.5, 0.75
"""``k1`` and ``b``."""


def word_scores(question: str, texts: Sequence[str]) -> list[float]:
    """How much of a question's words each text holds, from 0 (none of them) to below 1.

    Args:
        question: its words count as often as they stand in it.
        texts: at least one.
    """
    asked = Counter(_words(question))
    counts = [Counter(_words(text)) for text in texts]
    lengths = [sum(count.values()) for count in counts]
    mean = sum(lengths) / len(lengths) or 1.0
    rarity = {word: _rarity(sum(word in count for count in counts), len(texts)) for word in asked}
    most = sum(asked[word] * rarity[word] for word in asked) * (_SATURATION + 1) or 1.0
    scores = []
    for count, length in zip(counts, lengths, strict=True):
        halved = _SATURATION * (1 - _LENGTH + _LENGTH * length / mean)
        found = (asked[w] * rarity[w] * count[w] * (_SATURATION + 1) / (count[w] + halved) for w in asked if w in count)
        scores.append(sum(found) / most)
    return scores


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _rarity(holding: int, texts: int) -> float:
    """Of a word that ``holding`` of the texts have; above 0 even where all have it."""
    return math.log(1 + (texts - holding + 0.5) / (holding + 0.5))

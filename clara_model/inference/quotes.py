"""Where the words of an answer stand in what was read, and which of its numbers and names stand nowhere in it.

Words are compared without their case, and numbers whole: 15 does not stand in 15,000, 1450 is 1,450. Leaves out what
words mean: a number that is written out is a word like any other, and a sum of two numbers stands nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from clara_model.windows import Window

_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SENTENCE = re.compile(r"[.!?\n][\"')\]]*\s*$")
_SMALL = frozenset(
    "a about also an and are as at be because been but by can do does for from had has have he her his how i if in "
    "into is it its no none not of on one or our she so such than that the their then there these they this those to "
    "unknown was we were what when where which who whom whose why will with yes you your".split()
)
"""Words that say nothing by themselves and are no names, though they begin sentences."""


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A run of words that stands both in the answer and in a document that was read."""

    start: int
    """Character of the answer where it begins."""
    end: int
    """Character of the answer before which it ends."""
    document: int
    """Index of the document, as in `Answer.selected`."""
    document_start: int
    """Character of the document where it begins."""
    document_end: int
    """Character of the document before which it ends."""

    @classmethod
    def of_all(cls, answer: str, window: Window, start: int) -> Self:
        """The whole of an answer, which stands in a window from one of its characters on."""
        first = window.start + start
        return cls(
            start=0, end=len(answer), document=window.document, document_start=first, document_end=first + len(answer)
        )


Read = tuple[Window, str]
"""What was read of a document: which stretch of which, and its text."""


@dataclass(frozen=True)
class _Word:
    key: str
    start: int
    end: int

    @property
    def is_number(self) -> bool:
        return self.key[0].isdigit()


def quotes(answer: str, passages: Sequence[Read]) -> list[Quote]:
    """The longest runs of the answer's words that stand in a passage, from left to right; none overlaps another.

    Of runs of equal length the first in the earliest passage; one of nothing but small words is left out.
    """
    said, read = _words(answer), [_words(text) for _, text in passages]
    found: list[Quote] = []
    first = 0
    while first < len(said):
        length, number, place = max(
            ((_run(said, first, words, at), -number, -at)
             for number, words in enumerate(read) for at, word in enumerate(words) if word.key == said[first].key),
            default=(0, 0, 0),
        )  # fmt: skip
        run = said[first : first + length]
        if any(word.key not in _SMALL for word in run):
            (window, _), words = passages[-number], read[-number][-place : length - place]
            start, end = window.start + words[0].start, window.start + words[-1].end
            found.append(
                Quote(
                    start=run[0].start,
                    end=run[-1].end,
                    document=window.document,
                    document_start=start,
                    document_end=end,
                )
            )
        first += max(1, length)
    return found


def unsupported(answer: str, question: str, passages: Sequence[Read]) -> list[str]:
    """Numbers and names of the answer that stand neither in the question nor in a passage, each once, in order.

    A name is a word with a capital letter; at the beginning of a sentence only if it stands alone, or another name or
    a number follows it.
    """
    known = {word.key for text in (question, *(text for _, text in passages)) for word in _words(text)}
    said = _words(answer)
    missing = (
        answer[word.start : word.end]
        for place, word in enumerate(said)
        if word.key not in known and (word.is_number or _is_name(answer, said, place))
    )
    return list(dict.fromkeys(missing))


def _words(text: str) -> list[_Word]:
    return [
        _Word(_THOUSANDS.sub("", match.group()).casefold(), match.start(), match.end())
        for match in _WORD.finditer(text)
    ]


def _run(said: Sequence[_Word], first: int, words: Sequence[_Word], at: int) -> int:
    """How many words from these two places on are the same."""
    pairs: Iterator[tuple[_Word, _Word]] = zip(said[first:], words[at:], strict=False)
    length = 0
    for ours, theirs in pairs:
        if ours.key != theirs.key:
            break
        length += 1
    return length


def _is_name(answer: str, said: Sequence[_Word], place: int) -> bool:
    word = said[place]
    if word.key in _SMALL or not any(letter.isupper() for letter in answer[word.start : word.end]):
        return False
    if place and not _SENTENCE.search(answer[: word.start]):
        return True
    rest = said[place + 1 :]
    alone = not rest or bool(_SENTENCE.search(answer[word.end : rest[0].start]))
    return alone or rest[0].is_number or answer[rest[0].start].isupper()

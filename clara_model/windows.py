"""A long text is read in windows: stretches that end where sentences end and fit the model's document length.

Windows of one text follow each other and never overlap, so a sentence is in one of them only.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex

_WINDOW_CHARS_PER_TOKEN = 8  # how far ahead of a passage's start its end is looked for
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE_END = regex.compile(
    r"[.!?\u2026](?<!\b[A-Z].)(?<!\bMr.)(?<!\bMs.)(?<!\bDr.)(?<!\bSt.)(?<!\bNo.)(?<!\bvs.)(?<!\bMrs.)(?<!\bProf.)"
    r"[\"'\u201d\u2019)\]]*(?=\s)(?!\s+[a-z])"  # not after J. or Dr.; "e.g. this" goes on
    # the full stops of all other scripts, no space needed; Tibetan's are no such letters in Unicode
    r"|[[\p{Sentence_Break=STerm}\u0f0d\u0f0e]--[\u0000-\u007f\u2000-\u206f]]"
    r"[\"'\u201d\u2019)\]\u300d\u300f\uff09\uff63]*",
    regex.VERSION1,
)
_GRAPHEME = regex.compile(r"\X")
_GRAPHEME_CHARS = 64  # how far beyond a cut the character that it may stand in is looked at
_LINE_END = re.compile(r"\n+")
_SPACE = re.compile(r"\s+")


def content_key(text: str) -> str:
    """The key of a text: SHA-256 of its characters, lone surrogates included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Window:
    """A stretch of a document, ``text[start:end]``: the whole of it by default."""

    key: str = ""
    """Content key of its text, by which a store finds its latents; empty in what a question gives back."""
    start: int = 0
    """Character of the document where it begins."""
    end: int | None = None
    """Character of the document before which it ends; None where it goes to the document's end."""
    document: Any = 0
    """Which document: its index among those that were given, or its id in a store."""
    number: int = 0
    """Which of the document's windows, from 0."""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Of the document, in a store."""

    @property
    def whole(self) -> bool:
        """Whether it is the document as it was given."""
        return self.start == 0 and self.end is None

    @property
    def citation(self) -> str:
        """Where it stands, counted from 1 as people do: `document 3, window 2`, or `document 3`."""
        place = f"document {self.document + 1}"
        return place if self.whole else f"{place}, window {self.number + 1}"


@dataclass(frozen=True)
class SplitText:
    """A document on its way: its text, hashed and split once."""

    text: str
    key: str
    """Content key of the whole text."""
    windows: tuple[Window, ...]
    """In order, each with its key; one where the text is read whole."""

    @property
    def parts(self) -> Iterator[tuple[str, str]]:
        """Key and text of each window."""
        return ((window.key, self.text[window.start : window.end]) for window in self.windows)


def split_text(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> Iterator[str]:
    """The stretches of `split_places` themselves."""
    for start, end in split_places(text, count_tokens, max_tokens):
        yield text[start:end]


def split_places(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Where to cut a text into stretches of at most `max_tokens` tokens, each as long as fits.

    A stretch ends where a paragraph ends if that fills it at least by half, else where a sentence ends, else (again
    filled by half, so never after a heading) a line, else a word, and only then inside a word, between two characters
    as people see them (letters with their marks, an emoji of several parts). Nothing but the white space between
    stretches is lost.

    Returns:
        start and end of each stretch in the text.

    Raises:
        ValueError: `max_tokens` below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    while start < end:
        window = text[start : min(end, start + max_tokens * _WINDOW_CHARS_PER_TOKEN)]
        rest_fits = start + len(window) == end and count_tokens(window) <= max_tokens
        beyond = text[start + len(window) : start + len(window) + _GRAPHEME_CHARS]
        cut = len(window) if rest_fits else _cut(window, beyond, count_tokens, max_tokens)
        yield start, start + len(window[:cut].rstrip())
        start += cut
        if space := _SPACE.match(text, start):
            start = space.end()


def _cut(window: str, beyond: str, count_tokens: Callable[[str], int], max_tokens: int) -> int:
    """Where the first stretch of the window ends: the best kind of end at which it fits; at least one character.

    ``beyond`` is what follows the window, which no stretch reaches into.
    """

    def tokens(end: int) -> int:
        return count_tokens(window[:end].rstrip())

    def last_fitting(ends: Sequence[int]) -> int:
        fitting = bisect_left(ends, True, key=lambda end: tokens(end) > max_tokens)
        return ends[fitting - 1] if fitting else 0

    paragraphs = [match.start() for match in _PARAGRAPH_END.finditer(window)]
    sentences = {match.end() for match in _SENTENCE_END.finditer(window)}
    cut = last_fitting(sorted(sentences.union(paragraphs)))
    if cut:
        cut = next((end for end in reversed(paragraphs) if cut / 2 <= end < cut), cut)
    if cut not in sentences and 2 * tokens(cut) < max_tokens:  # nothing, or no more than a heading
        cut = last_fitting([match.start() for match in _LINE_END.finditer(window)])
        if 2 * tokens(cut) < max_tokens:
            words = [match.start() for match in _SPACE.finditer(window)]
            cut = (
                last_fitting(words) or _between_graphemes(window + beyond, last_fitting(range(1, len(window) + 1))) or 1
            )
    return cut


def _between_graphemes(text: str, cut: int) -> int:
    """The last end of a character as people see it that is not beyond ``cut``; ``cut`` where there is none."""
    if text.isascii():
        return cut
    ends = (match.end() for match in _GRAPHEME.finditer(text[: cut + _GRAPHEME_CHARS]))
    return max((end for end in ends if end <= cut), default=cut)

"""The one form in which the model reads a text, whatever program wrote it.

What is changed is what printing and typing leave behind: characters that were joined, spread or hyphenated. Ordinary
text stays as it is to the byte, Chinese punctuation, fractions and raised digits too, so this is not NFKC. The text
that is kept, cut and shown is the user's own; its tokens are of this form.
"""

from __future__ import annotations

import re
import unicodedata

import regex

_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
"""Spaces that do not break or have a width of their own."""
_HYPHEN = re.compile("[\u2010\u2011]")
_PRINTED = re.compile("[\ufb00-\ufdcf\ufe70-\ufefc\uff61-\uff9f]+")
"""Ligatures, letters in the shape that they have at a place of a word, half-width Japanese and Korean."""
_FULL_WIDTH = re.compile("[\uff01-\uff5e\u3000]+")
_FULL_WIDTH_WORD = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
_PILE = regex.compile(r"\p{M}{31,}")
"""More marks on one letter than any language has; putting them in order takes time that grows with their square."""
_LINE_END = re.compile(r"(?<=[^\W\d_])(-|\u00ad)\n[ \t]*(?=[^\W\d_])")
_SOFT_HYPHEN = "\u00ad"


def clean_text(text: object, what: str = "text") -> str:
    """The text as a plain string in the form that the model reads; anything but a string is refused.

    Halves of characters are U+FFFD; accents are one with their letter (NFC); ligatures, Latin letters and digits of
    full width and words that were hyphenated at the end of a line are plain again; every space within a line is a
    space.

    Raises:
        TypeError: not a string; names ``what`` it is.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a string, got {type(text).__name__}")
    text = str.__str__(text)  # of a member of a string enumeration, its value
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = text if _PILE.search(text) else unicodedata.normalize("NFC", text)
        text = _PRINTED.sub(_compatible, text)
        text = _HYPHEN.sub("-", _SPACE.sub(" ", _FULL_WIDTH.sub(_half_width, text)))
    if "-\n" in text or _SOFT_HYPHEN in text:
        text = _LINE_END.sub(_joined, text).replace(_SOFT_HYPHEN, "")
    return text


def _compatible(found: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", found[0])


def _half_width(found: re.Match[str]) -> str:
    """Chinese and Japanese punctuation stays where it stands alone."""
    return _compatible(found) if _FULL_WIDTH_WORD.search(found[0]) else found[0]


def _joined(end: re.Match[str]) -> str:
    """A word goes on in small letters; what goes on in capitals has a hyphen of its own."""
    return "" if end.string[end.end()].islower() or end[1] == _SOFT_HYPHEN else end[0]

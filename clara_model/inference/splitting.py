"""How much of a long text is read: all of it in windows, its start, or nothing at all.

A text is long where it has more than ``doc_max_length`` tokens. Leaves out where it is split (`clara_model.windows`)
and what its windows become (`inference.engine`).
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence

from clara_model.errors import ClaraError
from clara_model.modeling.tokens import Tokens
from clara_model.store.cache import content_key
from clara_model.validation import LongDocuments
from clara_model.windows import Window

logger = logging.getLogger(__name__)

REMEMBERED = 50_000
"""Texts of which a reader remembers where they were split."""


class Reader:
    """Where texts are split, remembered: a text whose latents are kept is not tokenised again. Thread-safe."""

    def __init__(self, tokens: Tokens) -> None:
        """Nothing is remembered yet."""
        self._tokens = tokens
        self._places: OrderedDict[str, tuple[tuple[int, int], ...]] = OrderedDict()
        self._lock = threading.Lock()

    def places(self, text: str) -> tuple[tuple[int, int], ...]:
        """Start and end of each stretch that is read at once; one where the text is not long."""
        key = content_key(text)
        with self._lock:
            found = self._places.get(key)
            if found is not None:
                self._places.move_to_end(key)
                return found
        found = tuple(self._tokens.windows(text))
        with self._lock:
            self._places[key] = found
            if len(self._places) > REMEMBERED:
                self._places.popitem(last=False)
        return found

    def windows(self, texts: Sequence[str], long_documents: LongDocuments) -> list[Window]:
        """What is read of some documents, in order: each whole, or in windows one after the other.

        Raises:
            ClaraError: a long text where ``long_documents`` is ``error``.
        """
        if long_documents == "truncate":
            return [Window(document=index) for index in range(len(texts))]
        windows: list[Window] = []
        for index, text in enumerate(texts):
            places = self.places(text)
            if len(places) == 1:
                windows.append(Window(document=index))
                continue
            if long_documents == "error":
                raise ClaraError(
                    f"document {index + 1} of {len(texts)} ({text[:40]!r}) has more than the "
                    f"{self._tokens.config.doc_max_length} tokens that the checkpoint reads at once; split it, or ask "
                    "for long_documents='split' or 'truncate'"
                )
            for number, (start, end) in enumerate(places):
                windows.append(Window(document=index, number=number, start=start, end=end))
        return windows


def warn_of_cuts(tokens: Tokens, texts: Sequence[str], lengths: Sequence[int], what: str = "document") -> None:
    """One warning with counts if any of some texts was cut.

    Args:
        tokens: which cut them.
        texts: distinct ones.
        lengths: text tokens that were kept of each.
        what: the texts are.
    """
    limit = tokens.config.doc_max_length
    long = [text for text, length in zip(texts, lengths, strict=True) if length > limit]
    reached = [(tokens.reach(text), len(text)) for text in long]
    reached = [(reach, length) for reach, length in reached if reach < length]
    if not reached:
        return
    rest = "; long_documents='split' reads them whole" if what == "document" else ""
    logger.warning(
        "%d of %d %ss longer than %d tokens: %d of their %d characters were read and the rest was cut%s",
        len(reached), len(texts), what, limit, sum(reach for reach, _ in reached), sum(length for _, length in reached),
        rest,
    )  # fmt: skip

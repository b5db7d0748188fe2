"""How much of a long text is read: all of it in windows, its start, or nothing at all.

A text is long where it has more than ``doc_max_length`` tokens. Leaves out where it is split (`clara_model.windows`)
and what its windows become (`inference.calls`).
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence

from clara_model.checkpoint.options import LongDocuments
from clara_model.errors import ClaraError
from clara_model.modeling.tokens import Tokens
from clara_model.windows import SplitText, Window, content_key

logger = logging.getLogger(__name__)

REMEMBERED = 50_000
"""Texts of which it is remembered where they were split."""


class Splitter:
    """Texts hashed and split; where one was split is remembered, so that it is not tokenised again. Thread-safe."""

    def __init__(self, tokens: Tokens, long_documents: LongDocuments) -> None:
        self._tokens, self._long_documents = tokens, long_documents
        self._windows: OrderedDict[str, tuple[Window, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def split(self, texts: Sequence[str]) -> list[SplitText]:
        """What is read of some texts: each whole, or in windows one after the other.

        Raises:
            ClaraError: a long text where ``long_documents`` is ``error``.
        """
        found: dict[str, SplitText] = {}
        for number, text in enumerate(texts, start=1):
            if text in found:
                continue
            key = content_key(text)
            windows = (Window(key),) if self._long_documents == "truncate" else self._remembered(text, key)
            if len(windows) > 1 and self._long_documents == "error":
                raise ClaraError(
                    f"document {number} of {len(texts)} ({text[:40]!r}) has more than the "
                    f"{self._tokens.config.doc_max_length} tokens that the checkpoint reads at once; split it, or ask "
                    "for long_documents='split' or 'truncate'"
                )
            found[text] = SplitText(text, key, windows)
        return [found[text] for text in texts]

    def _remembered(self, text: str, key: str) -> tuple[Window, ...]:
        with self._lock:
            found = self._windows.get(key)
            if found is not None:
                self._windows.move_to_end(key)
                return found
        places = self._tokens.windows(text)
        if len(places) == 1:
            found = (Window(key),)
        else:
            numbered = enumerate(places)
            found = tuple(Window(content_key(text[start:end]), start, end, number=n) for n, (start, end) in numbered)
        with self._lock:
            self._windows[key] = found
            if len(self._windows) > REMEMBERED:
                self._windows.popitem(last=False)
        return found


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

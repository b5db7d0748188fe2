"""Texts that are held back while a chat template is rendered, so that nothing in them is read as a control token.

Leaves out which texts need it, and how they become ids (`modeling.tokens`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable


class Places:
    """Texts that are held back from a rendering, each under a place that no text of that rendering can contain."""

    def __init__(self, texts: Iterable[str]) -> None:
        """``texts`` are all those that take part; the places are named by their hash, which none of them can hold."""
        self._name = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]
        self._held: dict[str, str] = {}

    def hold(self, text: str) -> str:
        """Hold a text back; what stands for it."""
        place = f"\ue000{self._name}:{len(self._held)}\ue001"
        self._held[place] = text
        return place

    def pieces(self, rendered: str) -> list[tuple[str, bool]]:
        """The rendering piece by piece, and of each piece whether it is a text that was held back."""
        if not self._held:
            return [(rendered, False)]
        pieces = re.split("(" + "|".join(map(re.escape, self._held)) + ")", rendered)
        return [(self._held.get(piece, piece), piece in self._held) for piece in pieces if piece]

    def all_once(self, rendered: str) -> bool:
        """Whether every text that was held back has exactly one place in the rendering."""
        return all(rendered.count(place) == 1 for place in self._held)

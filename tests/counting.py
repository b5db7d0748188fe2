"""How often texts are hashed, split and encoded, wherever in the library that happens."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clara_model import ClaraModel
from clara_model.modeling.tokens import Tokens
from clara_model.windows import content_key


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], Counter[str]]:
    """The texts that are hashed from now on, and those whose windows are looked for."""
    hashed, split, real = Counter[str](), Counter[str](), Tokens.windows
    for module in [one for name, one in sys.modules.items() if name.startswith(("clara_model", "trainers"))]:
        if hasattr(module, "content_key"):
            monkeypatch.setattr(module, "content_key", lambda text: (hashed.update([text]), content_key(text))[1])
    monkeypatch.setattr(Tokens, "windows", lambda own, text: (split.update([text]), real(own, text))[1])
    return hashed, split


@contextmanager
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How many texts each role encodes inside the block."""
    counts = {"compressor": 0, "query_reasoner": 0}
    original = ClaraModel.encode

    def counting(self, role, ids, mask):
        counts[role] += len(ids)
        return original(self, role, ids, mask)

    with monkeypatch.context() as patch:
        patch.setattr(ClaraModel, "encode", counting)
        yield counts

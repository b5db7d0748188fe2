"""Counted encodings, for the tests that nothing is compressed twice."""

from contextlib import contextmanager

from clara_model.inference.engine import Engine


@contextmanager
def encoded(monkeypatch):
    """How many texts each role encodes inside the block."""
    counts = {"compressor": 0, "query_reasoner": 0}
    original = Engine._encode

    def counting(self, role, rows):
        counts[role] += len(rows)
        return original(self, role, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_encode", counting)
        yield counts

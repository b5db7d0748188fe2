"""Counted encodings, for the tests that nothing is compressed twice."""

from contextlib import contextmanager

from clara_model import ClaraModel


@contextmanager
def encoded(monkeypatch):
    """How many texts each role encodes inside the block."""
    counts = {"compressor": 0, "query_reasoner": 0}
    original = ClaraModel.encode

    def counting(self, role, ids, mask):
        counts[role] += len(ids)
        return original(self, role, ids, mask)

    with monkeypatch.context() as patch:
        patch.setattr(ClaraModel, "encode", counting)
        yield counts

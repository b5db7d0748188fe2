"""What the Haystack tests share: components on the small model, documents of the edge-case table, counted encodings."""

from contextlib import contextmanager

from haystack import Document
from haystack.utils import ComponentDevice

from clara_model.engine import Engine

CPU = ComponentDevice.from_str("cpu")
LOADING = {"dtype": "float32", "device": CPU}
SHORT = {"max_new_tokens": 6}


def documents_of(texts):
    return [Document(id=f"n{number}", content=text, score=1 - 0.1 * number) for number, text in enumerate(texts)]


def edge_documents(case):
    """The documents of a row of the edge-case table."""
    return [Document(id=doc.id, content=doc.text, score=doc.score, meta=doc.meta) for doc in case.documents]


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

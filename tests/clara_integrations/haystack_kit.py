"""What the Haystack tests share: components on the small model, documents of the edge-case table."""

from haystack import Document
from haystack.utils import ComponentDevice

CPU = ComponentDevice.from_str("cpu")
LOADING = {"dtype": "float32", "device": CPU}
SHORT = {"max_new_tokens": 6}


def documents_of(texts):
    return [Document(id=f"n{number}", content=text, score=1 - 0.1 * number) for number, text in enumerate(texts)]


def edge_documents(case):
    """The documents of a row of the edge-case table."""
    return [Document(id=doc.id, content=doc.text, score=doc.score, meta=doc.meta) for doc in case.documents]

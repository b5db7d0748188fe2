"""What the LlamaIndex tests share: nodes, a retriever of fixed nodes, recorded events."""

from contextlib import contextmanager

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import Node, NodeWithScore, TextNode

LOADING = {"dtype": "float32", "device": "cpu"}


def text_nodes(texts, scores=None):
    scores = scores or [1.0 - 0.1 * number for number in range(len(texts))]
    made = [TextNode(id_=f"n{number}", text=text, metadata={"number": number}) for number, text in enumerate(texts)]
    return [NodeWithScore(node=node, score=score) for node, score in zip(made, scores, strict=True)]


def edge_nodes(case):
    """The documents of a row of the edge-case table; a text that is None is a `Node` without one."""
    made = []
    for doc in case.documents:
        fields = {"id_": doc.id, "metadata": doc.meta}
        node = Node(**fields) if doc.text is None else TextNode(text=doc.text, **fields)
        made.append(NodeWithScore(node=node, score=doc.score))
    return made


class FixedRetriever(BaseRetriever):
    """Always the same nodes."""

    def __init__(self, nodes):
        super().__init__()
        self.nodes = nodes

    def _retrieve(self, query_bundle):
        return list(self.nodes)


class Recorder(BaseEventHandler):
    """Keeps every event."""

    events: list

    def handle(self, event, **kwargs):
        self.events.append(event)

    def names(self, *words):
        found = [type(event).__name__ for event in self.events]
        return [name for name in found if any(word in name for word in words)] if words else found


@contextmanager
def recorded():
    """The instrumentation events inside the block."""
    recorder, root = Recorder(events=[]), get_dispatcher()
    root.add_event_handler(recorder)
    try:
        yield recorder
    finally:
        root.event_handlers.remove(recorder)


def debugging():
    """A callback manager, and the handler that keeps its events."""
    handler = LlamaDebugHandler(print_trace_on_end=False)
    return CallbackManager([handler]), handler

"""Filters of both retrievers beside those of the frameworks' own stores, on the same metadata: a table of operators."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.errors import FilterError
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)

from clara_integrations.llama_index.filters import where_of as of_llama_index
from clara_model.store import Block, DurableStore, StoredDocument, Window, open_store
from clara_model.store.protocol import content_key
from haystack_integrations.components.retrievers.clara.filters import where_of as of_haystack

METADATA: list[dict[str, Any]] = [
    {"year": 1990, "title": "A", "ok": True, "r": 1.5, "date": "2024-01-02", "tags": ["x", "y"]},
    {"year": "1990", "title": "a", "ok": False, "r": 2, "date": "2023-12-31T00:00:00", "tags": ["y"]},
    {"title": "B b", "tags": []},
    {"year": 2001, "title": "", "ok": 1, "r": 0, "date": "2024-01-02T00:00:00+01:00", "größe": 3},
    {"year": 0, "title": "%", "tags": "x and y", "big": 2**64 - 1},
    {"year": 1990.0, "title": "_", "ok": "true", "source_id": "ORIG-7", "file": "letters/report.pdf"},
]
VALUES: list[Any] = [1990, "1990", 1990.0, "A", "a", "", True, False, None, 0, 1, "%", "x", "y"]
VALUES += [["A", "B b"], [1990, None], [], ["x"], ["x", "y"], "2024-01-02", "2024-01-02T00:00:00+01:00", 2**64 - 1]
NAMES = ("year", "title", "ok", "r", "date", "tags", "größe", "big", "source_id", "nothing")


@pytest.fixture(scope="module", params=["latents", "latents.lance"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DurableStore]:
    with open_store(tmp_path_factory.mktemp("side") / request.param) as opened:
        vectors = torch.randn(len(METADATA), 2, 8)
        keys = [content_key(str(i)) for i in range(len(METADATA))]
        opened.put("f", {one: Block(vectors[i], 1) for i, one in enumerate(keys)})
        kept = enumerate(zip(keys, METADATA, strict=True))
        opened.record([StoredDocument(f"d{i}", (Window(one, 0, 1),), "d", metadata) for i, (one, metadata) in kept])
        yield opened


def found(store: DurableStore, where: dict[str, Any]) -> list[str]:
    return sorted({one.document for one in store.find(where=where)})


def values(store: DurableStore, *more: Any) -> list[Any]:
    """All on SQLite, a quarter on Lance, which takes longer and the meaning from SQLite."""
    return [*VALUES[:: 4 if store.url.endswith(".lance") else 1], *more]


def test_haystack(store: DurableStore):
    stock = InMemoryDocumentStore()
    stock.write_documents([Document(id=f"d{i}", content="", meta={"source_id": f"d{i}", **kept})
                           for i, kept in enumerate(METADATA)])  # fmt: skip
    tried = refused = 0
    for name in NAMES:
        for operator in ("==", "!=", ">", ">=", "<", "<=", "in", "not in"):
            for value in values(store, "d2", ["d2", "ORIG-7"]):
                plain = {"field": f"meta.{name}", "operator": operator, "value": value}
                for filters in (plain, {"operator": "NOT", "conditions": [plain]}):
                    try:
                        right = sorted(one.id for one in stock.filter_documents(filters))
                    except (FilterError, TypeError):
                        refused += 1  # by what it is compared with, too: a store finds nothing there
                        continue
                    try:
                        where = of_haystack(filters, "ClaraRetriever")
                    except ValueError:  # an order of texts is refused before there is something to compare
                        assert operator in (">", ">=", "<", "<=") and isinstance(value, (str, list))
                        refused += 1
                        continue
                    assert found(store, where) == right, filters
                    tried += 1
    assert tried > 350
    assert refused > 50


@pytest.mark.parametrize("value", ["A", ["A"], {"a": 1}])
def test_haystack_refuses_an_order_of_what_has_none(value: Any):
    with pytest.raises(ValueError, match="ClaraRetriever: "):
        of_haystack({"field": "meta.year", "operator": ">", "value": value}, "ClaraRetriever")


def test_llama_index(store: DurableStore):
    stock = SimpleVectorStore()
    stock.add([TextNode(id_=f"d{i}", metadata=kept, embedding=[1.0, 0.0]) for i, kept in enumerate(METADATA)])
    tried = refused = 0
    for name in NAMES:
        for operator in FilterOperator:
            for value in values(store):
                if isinstance(value, bool):  # `MetadataFilter` takes none
                    continue
                try:
                    one = MetadataFilter(key=name, value=value, operator=operator)
                except ValueError:
                    continue
                for condition in (FilterCondition.AND, FilterCondition.NOT):
                    filters = MetadataFilters(filters=[one], condition=condition)
                    query = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=50, filters=filters)
                    try:
                        right = sorted(stock.query(query).ids)
                    except (TypeError, ValueError):
                        refused += 1
                        continue
                    if operator in LISTED and not isinstance(value, list):
                        with pytest.raises(ValueError, match="takes a list"):  # there, the letters of a text
                            of_llama_index(filters)
                        continue
                    try:
                        where = of_llama_index(filters)
                    except ValueError:  # what nothing is compared with there
                        assert right in ([], sorted(f"d{i}" for i in range(len(METADATA))))
                        continue
                    assert found(store, where) == right, filters
                    tried += 1
    assert tried > 350
    assert refused > 50


LISTED = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)

"""The embedders: vectors whose cosine is close to the ranker's score, and a Haystack embedder's manners."""

import copy

import pytest
from counting import encoded
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack_kit import LOADING, documents_of
from small_model import QUESTIONS, TEXTS

from clara_integrations.haystack import ClaraDocumentEmbedder, ClaraRanker, ClaraTextEmbedder

QUESTION = QUESTIONS[0]


@pytest.fixture
def embedders(clara, tiny_clara_folder):
    text = ClaraTextEmbedder(model=tiny_clara_folder, **LOADING)
    return text, ClaraDocumentEmbedder(model=tiny_clara_folder, progress_bar=False, **LOADING)


def test_the_cosine_of_the_vectors_is_the_rankers_score(embedders, tiny_clara_folder):
    """Exactly so here, where a block is smaller than the vector."""
    text, document = embedders
    query = text.run(QUESTION)["embedding"]
    found = document.run(documents_of(TEXTS))["documents"]
    ranked = ClaraRanker(model=tiny_clara_folder, **LOADING).run(QUESTION, documents_of(TEXTS))["documents"]
    scores = {doc.id: sum(a * b for a, b in zip(query, doc.embedding, strict=True)) for doc in found}
    assert scores == pytest.approx({doc.id: doc.score for doc in ranked}, abs=1e-5)


@pytest.mark.parametrize("dimensions", [1, 16, 100, 2000])
def test_the_size_is_as_asked_and_the_values_are_floats(clara, tiny_clara_folder, dimensions):
    text = ClaraTextEmbedder(model=tiny_clara_folder, dimensions=dimensions, **LOADING)
    document = ClaraDocumentEmbedder(
        model=tiny_clara_folder, dimensions=dimensions, progress_bar=False, batch_size=2, **LOADING
    )
    vectors = [text.run(QUESTION)["embedding"]]
    vectors += [doc.embedding for doc in document.run(documents_of(TEXTS))["documents"]]
    assert {len(vector) for vector in vectors} == {dimensions}
    assert {type(value) for vector in vectors for value in vector} == {float}
    assert [sum(value * value for value in vector) for vector in vectors] == pytest.approx([1] * 6, abs=1e-5)


def test_documents_keep_their_order_and_are_not_changed(embedders):
    documents = documents_of([*TEXTS, None, ""])
    before = copy.deepcopy(documents)
    result = embedders[1].run(documents)
    assert [doc.id for doc in result["documents"]] == [doc.id for doc in documents]
    assert documents == before
    assert result["documents"][5].embedding == result["documents"][6].embedding


def test_nothing_and_the_empty_text(embedders):
    assert embedders[1].run([]) == {"documents": []}
    assert len(embedders[0].run("")["embedding"]) == 1024
    assert list(embedders[0].run("\ud800")) == ["embedding"]


def test_a_bare_connect_is_not_ambiguous():
    pipeline, store = Pipeline(), InMemoryDocumentStore()
    pipeline.add_component("query", ClaraTextEmbedder())
    pipeline.add_component("vectors", InMemoryEmbeddingRetriever(store))
    pipeline.connect("query", "vectors")
    pipeline.add_component("documents", ClaraDocumentEmbedder())
    pipeline.add_component("writer", DocumentWriter(store))
    pipeline.connect("documents", "writer")
    assert set(pipeline.graph.edges()) == {("query", "vectors"), ("documents", "writer")}


def test_prefix_metadata_and_suffix(clara, tiny_clara_folder):
    from clara_model.modeling.embedding import embed

    document = ClaraDocumentEmbedder(
        model=tiny_clara_folder,
        dimensions=32,
        prefix="passage: ",
        suffix=".",
        meta_fields_to_embed=["title"],
        embedding_separator=" | ",
        progress_bar=False,
        **LOADING,
    )
    found = document.run([Document(content="Text", meta={"title": "Title"})])["documents"][0].embedding
    assert found == pytest.approx(embed(clara.compress(["passage: Title | Text."]), 32)[0], abs=1e-5)
    text = ClaraTextEmbedder(model=tiny_clara_folder, dimensions=32, prefix="query: ", suffix="?", **LOADING)
    expected = embed(clara.encode_queries(["query: Text?"]), 32)[0]
    assert text.run("Text")["embedding"] == pytest.approx(expected, abs=1e-5)


def test_each_is_told_of_the_other(embedders):
    with pytest.raises(TypeError, match="use ClaraDocumentEmbedder"):
        embedders[0].run(documents_of(TEXTS))
    with pytest.raises(TypeError, match="expects a list of Documents"):
        embedders[1].run("text")


def test_what_is_embedded_is_not_compressed_again_to_rank(embedders, clara, tiny_clara_folder, monkeypatch):
    clara.store.clear()
    with encoded(monkeypatch) as counts:
        documents = embedders[1].run(documents_of(TEXTS))["documents"]
        ClaraRanker(model=tiny_clara_folder, **LOADING).run(QUESTION, documents)
    assert counts == {"compressor": len(TEXTS), "query_reasoner": 1}


@pytest.mark.parametrize("kind", [ClaraTextEmbedder, ClaraDocumentEmbedder])
def test_a_size_below_one_is_refused(kind):
    with pytest.raises(ValueError, match="dimensions must be > 0, but got 0"):
        kind(dimensions=0)

"""ClaraEmbedding: questions and texts in one space of vectors, through the base class's batches and a vector store."""

import asyncio
import json
import pickle

import pytest
from counting import encoded
from edge_cases import EDGE_CASES
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index_kit import LOADING, edge_nodes, text_nodes
from pydantic import ValidationError
from small_model import QUESTIONS, TEXTS

from clara_integrations.llama_index import ClaraEmbedding, ClaraRerank
from clara_model.inference.clara import Clara
from clara_model.modeling.embedding import embed


@pytest.fixture
def embedding(clara, tiny_clara_folder):
    return ClaraEmbedding(model=tiny_clara_folder, dimensions=24, **LOADING)


def test_questions_go_through_the_query_reasoner_and_texts_through_the_compressor(embedding, clara):
    texts = embedding.get_text_embedding_batch(TEXTS)
    assert texts == embed(clara.compress(TEXTS), 24)
    assert embedding.get_query_embedding(TEXTS[0]) == embed(clara.encode_queries([TEXTS[0]]), 24)[0] != texts[0]
    assert embedding.get_text_embedding(TEXTS[0]) == pytest.approx(texts[0], abs=1e-6)
    assert {type(number) for number in texts[0]} == {float}
    assert [len(vector) for vector in texts] == [24] * 5
    assert embedding.get_text_embedding_batch([]) == embedding._get_text_embeddings([]) == []


def test_texts_are_embedded_in_batches(embedding, clara, monkeypatch):
    calls, compress = [], Clara.compress
    monkeypatch.setattr(Clara, "compress", lambda self, texts: calls.append(len(texts)) or compress(self, texts))
    embedding.embed_batch_size = 2
    embedding.get_text_embedding_batch(TEXTS)
    assert calls == [2, 2, 1]


def test_async_gives_the_same(embedding):
    async def ask():
        return (
            await embedding.aget_query_embedding(QUESTIONS[0]),
            await embedding.aget_text_embedding(TEXTS[0]),
            await embedding.aget_text_embedding_batch(TEXTS),
        )

    query, text, texts = asyncio.run(ask())
    assert query == embedding.get_query_embedding(QUESTIONS[0])
    assert text == embedding.get_text_embedding(TEXTS[0])
    assert texts == embedding.get_text_embedding_batch(TEXTS)


def test_at_full_size_a_vector_store_ranks_like_the_reranker(clara, tiny_clara_folder):
    full = clara.model.config.memory_tokens * 32
    embedding = ClaraEmbedding(model=tiny_clara_folder, dimensions=full, **LOADING)
    index = VectorStoreIndex([node.node for node in text_nodes(TEXTS)], embed_model=embedding)
    retrieved = index.as_retriever(similarity_top_k=5).retrieve(QUESTIONS[1])
    ranked = ClaraRerank(model=tiny_clara_folder, top_n=5, **LOADING).postprocess_nodes(
        retrieved, query_str=QUESTIONS[1]
    )
    assert [node.node_id for node in ranked] == [node.node_id for node in retrieved]
    assert [node.score for node in ranked] == pytest.approx([node.score for node in retrieved], abs=1e-5)


def test_the_reranker_does_not_compress_what_was_embedded(embedding, clara, tiny_clara_folder, monkeypatch):
    clara.store.clear()
    index = VectorStoreIndex([node.node for node in text_nodes(TEXTS)], embed_model=embedding)
    with encoded(monkeypatch) as counts:
        retrieved = index.as_retriever(similarity_top_k=5).retrieve(QUESTIONS[0])
        ClaraRerank(model=tiny_clara_folder, **LOADING).postprocess_nodes(retrieved, query_str=QUESTIONS[0])
    assert counts == {"compressor": 0, "query_reasoner": 2}


def test_what_changes_a_vector_is_a_public_field(embedding):
    saved = embedding.to_dict()
    assert {"model", "model_name", "subfolder", "revision", "base_model", "dimensions", "dtype"} <= set(saved)
    for other in (ClaraEmbedding.from_dict(json.loads(json.dumps(saved))), pickle.loads(pickle.dumps(embedding))):
        assert other.to_dict() == saved
        assert other.get_query_embedding(QUESTIONS[0]) == embedding.get_query_embedding(QUESTIONS[0])
    assert embedding.to_payload()["model_name"] == embedding.model


def test_an_ingestion_cache_does_not_serve_vectors_of_other_settings(embedding, tiny_clara_folder):
    cache, nodes = IngestionCache(), [node.node for node in text_nodes(TEXTS[:2])]
    other = ClaraEmbedding(model=tiny_clara_folder, dimensions=16, **LOADING)
    for component in (embedding, other, embedding):
        made = IngestionPipeline(transformations=[component], cache=cache).run(nodes=nodes)
        assert [len(node.embedding) for node in made] == [component.dimensions] * 2


def test_model_and_model_name_are_one_thing():
    assert ClaraEmbedding().model == ClaraEmbedding().model_name == "clara-tiny"
    assert ClaraEmbedding(model_name="there").model == "there"
    with pytest.raises(ValidationError, match="'here' and 'there'"):
        ClaraEmbedding(model="here", model_name="there")
    with pytest.raises(ValidationError, match="greater than 0"):
        ClaraEmbedding(dimensions=0)


def test_any_text_has_a_vector(embedding):
    texts = [node.get_content() for case in EDGE_CASES for node in edge_nodes(case)]
    vectors = embedding.get_text_embedding_batch(texts) + [
        embedding.get_query_embedding(one.query) for one in EDGE_CASES
    ]
    assert [sum(number * number for number in vector) for vector in vectors] == pytest.approx(
        [1] * len(vectors), abs=1e-5
    )

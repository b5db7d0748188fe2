"""`cold="text"` through the components of both frameworks: text first, latents afterwards, and which it was."""

import pytest
from haystack import Pipeline
from haystack_kit import LOADING as HAYSTACK
from haystack_kit import SHORT, documents_of
from llama_index_kit import LOADING, FixedRetriever, recorded, text_nodes
from small_model import QUESTIONS, TEXTS

from clara_integrations.haystack import ClaraGenerator, ClaraRanker
from clara_integrations.llama_index import ClaraQueryEngine, ClaraRerank, ClaraSynthesizer
from clara_integrations.llama_index.reading import ClaraAnswerEvent

QUESTION = QUESTIONS[0]


@pytest.fixture(autouse=True)
def nothing_compressed(clara):
    clara.store.clear()


def answered(engine):
    """The answer of a query engine, and what it was read from."""
    with recorded() as events:
        text = str(engine.query(QUESTION))
    (event,) = [one for one in events.events if isinstance(one, ClaraAnswerEvent)]
    return text, event.answered_from


def test_a_query_engine_answers_from_text_and_then_from_latents(clara, tiny_clara_folder):
    options = {"top_n": 2, "max_new_tokens": 6, **LOADING}
    retriever = FixedRetriever(text_nodes(TEXTS))
    engine = ClaraQueryEngine.from_retriever(retriever, tiny_clara_folder, cold="text", **options)
    assert answered(engine)[1] == "text"
    for part in (engine._node_postprocessors[-1], engine._response_synthesizer.llm):
        part.clara.flush()
    found = answered(engine)
    plain = ClaraQueryEngine.from_retriever(retriever, tiny_clara_folder, **options)
    assert found == answered(plain) and found[1] == "latents"


def test_llama_index_saves_it_and_refuses_another_word(tiny_clara_folder):
    rerank = ClaraRerank(model=tiny_clara_folder, cold="text", **LOADING)
    assert ClaraRerank.from_dict(rerank.to_dict()).cold == "text"
    with pytest.raises(ValueError, match="cold"):
        ClaraSynthesizer(tiny_clara_folder, cold="warm", **LOADING)


def test_a_pipeline_answers_from_text_and_then_from_latents(clara, tiny_clara_folder):
    plain = {"model": str(tiny_clara_folder), **HAYSTACK}
    options = {**plain, "model_kwargs": {"cold": "text"}}
    pipeline = Pipeline()
    pipeline.add_component("ranker", ClaraRanker(top_k=2, score_threshold=0.99, **options))
    pipeline.add_component("generator", ClaraGenerator(generation_kwargs=SHORT, **options))
    pipeline.connect("ranker.documents", "generator.documents")
    pipeline = Pipeline.loads(pipeline.dumps())
    asked = {"ranker": {"query": QUESTION, "documents": documents_of(TEXTS)}, "generator": {"query": QUESTION}}
    first = pipeline.run(asked)["generator"]["replies"][0]
    assert first.meta["answered_from"] == "text" and first.meta["document_ids"][0] == "n0"  # whatever the threshold
    for name in ("ranker", "generator"):
        pipeline.get_component(name).clara.flush()
    documents = ClaraRanker(top_k=2, **plain).run(QUESTION, documents_of(TEXTS))["documents"]
    asked["ranker"]["score_threshold"] = -1.0
    third = pipeline.run(asked)["generator"]["replies"][0]
    expected = ClaraGenerator(generation_kwargs=SHORT, **plain).run(QUESTION, documents)["replies"][0]
    assert (third.text, third.meta) == (expected.text, expected.meta)
    assert third.meta["answered_from"] == "latents"

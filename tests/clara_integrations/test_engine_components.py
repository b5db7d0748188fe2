"""`engine_url` in the components of both frameworks, from Python and YAML: the engine writes, and many at once."""

import asyncio
import threading

import pytest
import small_model
from haystack import Document, Pipeline
from llama_index.core.schema import NodeWithScore, TextNode
from stub_engine import stub_engine

from clara_integrations.llama_index import ClaraRerank, ClaraSynthesizer
from clara_model import Clara
from clara_model.checkpoint.export import export
from haystack_integrations.components.generators.clara import ClaraGenerator

QUESTION, TEXTS = small_model.QUESTIONS[0], small_model.TEXTS[:2]
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def own(tiny_clara_folder):
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        yield clara


@pytest.fixture(scope="module")
def stub(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine") / "generator"
    export(own.model.base, own.model.tokens.tokenizer, folder)
    with stub_engine(folder, key="secret") as server:
        yield server


@pytest.fixture(autouse=True)
def key(stub, monkeypatch):
    monkeypatch.setenv("CLARA_ENGINE_API_KEY", "secret")
    stub.bodies.clear()


def test_llama_index_reads_from_the_engine_and_never_saves_its_key(own, stub, tiny_clara_folder):
    loading = {"dtype": "float32", "device": "cpu", "engine_url": stub.url, "engine_timeout": 30.0}
    synthesizer = ClaraSynthesizer(tiny_clara_folder, max_new_tokens=8, **loading)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    own_answer = own.answer(QUESTION, TEXTS, len(TEXTS), rerank=False, max_new_tokens=8)
    assert synthesizer.synthesize(QUESTION, nodes).response == own_answer.text and len(stub.bodies) == 1
    saved = ClaraRerank(tiny_clara_folder, **loading, engine_api_key="secret").to_dict()
    assert saved["engine_url"] == stub.url and "secret" not in str(saved)
    assert ClaraRerank.from_dict(saved).engine_timeout == 30.0


def test_haystack_reads_from_the_engine_and_its_yaml_names_the_variable(own, stub, tiny_clara_folder):
    generator = ClaraGenerator(
        str(tiny_clara_folder), dtype="float32", engine_url=stub.url, generation_kwargs={"max_new_tokens": 8}
    )
    pipeline = Pipeline()
    pipeline.add_component("generator", generator)
    text = pipeline.dumps()
    assert f"engine_url: {stub.url}" in text and "CLARA_ENGINE_API_KEY" in text and "secret" not in text
    loaded = Pipeline.loads(text)
    documents = [Document(content=text) for text in TEXTS]
    reply = loaded.run({"generator": {"query": QUESTION, "documents": documents}})["generator"]["replies"][0]
    assert reply.text == own.answer(QUESTION, TEXTS, rerank=False, max_new_tokens=8).text and len(stub.bodies) == 1


def test_event_loops_have_many_answers_under_way(own, stub, tiny_clara_folder):
    synthesizer = ClaraSynthesizer(
        tiny_clara_folder, max_new_tokens=4, dtype="float32", device="cpu", engine_url=stub.url
    )
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    meeting = threading.Barrier(12, timeout=60)
    stub.before = lambda: meeting.wait()

    async def ask():
        return await asyncio.gather(*(synthesizer.asynthesize(QUESTION, nodes) for _ in range(12)))

    try:
        assert len({one.response for one in asyncio.run(ask())}) == 1
    finally:
        stub.before = lambda: None

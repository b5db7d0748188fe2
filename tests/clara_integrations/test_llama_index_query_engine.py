"""The whole way through LlamaIndex: one line, one compression of each document, many callers, light imports."""

import asyncio
import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from counting import encoded
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import MetadataMode, TextNode
from llama_index_kit import LOADING, FixedRetriever, debugging, recorded, text_nodes
from small_model import QUESTIONS, TEXTS

from clara_integrations.llama_index import ClaraEmbedding, ClaraLLM, ClaraQueryEngine, ClaraRerank, ClaraSynthesizer
from clara_model.inference.clara import Clara
from clara_model.inference.loader import loaded_models

FEW = {"max_new_tokens": 6}
CALLS = [(QUESTIONS[number % 3], number % 5) for number in range(64)]
"""A question, and where in the texts its nodes start."""


@pytest.fixture
def clara(tiny_clara_folder):
    """Held while a test runs, so that every component shares it."""
    with Clara.load(tiny_clara_folder, **LOADING) as clara:
        clara.store.clear()
        yield clara


@pytest.fixture
def make(tiny_clara_folder):
    def engine(nodes=None, **options):
        retriever = FixedRetriever(text_nodes(TEXTS) if nodes is None else nodes)
        return ClaraQueryEngine.from_retriever(
            retriever, tiny_clara_folder, **{"top_n": 2, **FEW, **LOADING, **options}
        )

    return engine


def expected_of(clara, question, texts, top_k=2):
    ranking = clara.rank(question, texts, top_k)
    best = [texts[one.index] for one in ranking]
    return [(one.index, one.score) for one in ranking], clara.answer(question, best, top_k, rerank=False, **FEW).text


def test_one_line_ranks_and_answers(clara, make):
    texts = [node.node.get_content(MetadataMode.LLM) for node in text_nodes(TEXTS)]
    ranking, answer = expected_of(clara, QUESTIONS[0], texts)
    response = make().query(QUESTIONS[0])
    assert response.response == answer
    assert [(node.node_id, node.score) for node in response.source_nodes] == [(f"n{i}", score) for i, score in ranking]
    assert "".join(make(streaming=True).query(QUESTIONS[0]).response_gen) == answer
    assert asyncio.run(make().aquery(QUESTIONS[0])).response == answer
    assert make([]).query(QUESTIONS[0]).response == "Empty Response"


def test_what_is_ranked_and_read_is_compressed_once(clara, make, monkeypatch):
    nodes = text_nodes(TEXTS)
    for node in nodes:  # what prompts see and what vectors see differ
        node.node.metadata["path"] = "somewhere"
        node.node.excluded_embed_metadata_keys = ["number"]
        node.node.excluded_llm_metadata_keys = ["path"]
    with encoded(monkeypatch) as counts:
        make(nodes).query(QUESTIONS[0])
        assert counts == {"compressor": 5, "query_reasoner": 1}
        make(nodes).query(QUESTIONS[1])
        assert counts == {"compressor": 5, "query_reasoner": 2}


def test_components_share_one_model_and_the_last_close_frees_it(tiny_clara_folder):
    gc.collect()
    before = loaded_models()
    rerank = ClaraRerank(model=tiny_clara_folder, **LOADING)
    synthesizer = ClaraSynthesizer(tiny_clara_folder, **FEW, **LOADING)
    assert loaded_models() == before
    nodes = rerank.postprocess_nodes(text_nodes(TEXTS), query_str=QUESTIONS[0])
    synthesizer.synthesize(QUESTIONS[0], nodes)
    assert rerank.clara.model is synthesizer.llm.clara.model
    assert len(loaded_models()) == len(before) + 1
    rerank.close()
    assert len(loaded_models()) == len(before) + 1
    synthesizer.close()
    assert loaded_models() == before


def test_from_index_and_as_query_engine(clara, tiny_clara_folder, monkeypatch):
    monkeypatch.setattr(Settings, "_llm", None)
    embedding = ClaraEmbedding(model=tiny_clara_folder, dimensions=64, **LOADING)
    index = VectorStoreIndex([node.node for node in text_nodes(TEXTS)], embed_model=embedding)
    ours = ClaraQueryEngine.from_index(index, tiny_clara_folder, similarity_top_k=3, top_n=2, **FEW, **LOADING)
    assert len(ours.retriever.retrieve(QUESTIONS[0])) == 3
    assert Settings._llm is None
    synthesizer = ClaraSynthesizer(tiny_clara_folder, **FEW, **LOADING)
    stock = index.as_query_engine(
        llm=synthesizer.llm,
        similarity_top_k=3,
        node_postprocessors=[ClaraRerank(model=tiny_clara_folder, top_n=2, **LOADING)],
        response_synthesizer=synthesizer,
    )
    assert stock.query(QUESTIONS[0]).response == ours.query(QUESTIONS[0]).response != ""


def test_from_args_is_from_retriever(clara, make, tiny_clara_folder):
    options = {"top_n": 2, **FEW, **LOADING}
    engine = ClaraQueryEngine.from_args(FixedRetriever(text_nodes(TEXTS)), tiny_clara_folder, llm=None, **options)
    assert type(engine._response_synthesizer) is ClaraSynthesizer
    assert engine.query(QUESTIONS[0]).response == make().query(QUESTIONS[0]).response != ""
    assert ClaraQueryEngine.from_args(FixedRetriever([]), streaming=True)._response_synthesizer._streaming


@pytest.mark.parametrize("name", ["llm", "response_synthesizer", "response_mode"])
def test_what_only_a_stock_engine_takes_is_refused(name):
    with pytest.raises(TypeError, match=f"ClaraQueryEngine.from_args: unknown argument '{name}'; .*known are model, "):
        ClaraQueryEngine.from_args(FixedRetriever([]), **{name: MockLLM()})


def test_for_templates_and_forms_the_component_that_takes_them_is_named_and_does(clara, tiny_clara_folder):
    template = PromptTemplate("Say more. {context_str} {query_str}")
    for make in (partial(ClaraQueryEngine.from_args, FixedRetriever([])), ClaraSynthesizer):
        with pytest.raises(TypeError, match=r"RetrieverQueryEngine.from_args\(.*text_qa_template=..\), with ClaraLLM"):
            make(tiny_clara_folder, text_qa_template=template)
        with pytest.raises(TypeError, match=r"output_cls=..\), with an llm that writes JSON"):
            make(tiny_clara_folder, output_cls=TextNode)
    engine = RetrieverQueryEngine.from_args(
        FixedRetriever(text_nodes(TEXTS)),
        llm=ClaraLLM(tiny_clara_folder, **FEW, **LOADING),
        node_postprocessors=[ClaraRerank(tiny_clara_folder, top_n=1, **LOADING)],
        text_qa_template=template,
    )
    contents = [node.node.get_content(MetadataMode.LLM) for node in text_nodes(TEXTS)]
    best = contents[clara.rank(QUESTIONS[0], contents)[0].index]
    said = clara.plain([{"role": "user", "content": f"Say more. {best} {QUESTIONS[0]}"}], **FEW).text
    assert engine.query(QUESTIONS[0]).response == said != ""


def test_the_plain_constructor_takes_a_clara_synthesizer_and_nothing_else(monkeypatch):
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    synthesizer = ClaraSynthesizer("nowhere")
    assert ClaraQueryEngine(FixedRetriever([]), synthesizer).query("Who?").response == "Empty Response"
    with pytest.raises(TypeError, match=r"needs a ClaraSynthesizer, got NoneType; ClaraQueryEngine.from_retriever\("):
        ClaraQueryEngine(FixedRetriever([]))
    with pytest.raises(TypeError, match="needs a ClaraSynthesizer, got CompactAndRefine"):
        ClaraQueryEngine(FixedRetriever([]), get_response_synthesizer(llm=MockLLM()))


def test_what_is_wrong_is_told_in_the_engines_name():
    with pytest.raises(ValueError, match=r"^ClaraQueryEngine: top_n: Input should be greater than 0, got 0$"):
        ClaraQueryEngine.from_retriever(FixedRetriever([]), top_n=0)
    with pytest.raises(ValueError, match=r"^ClaraQueryEngine: subfoldr: "):
        ClaraQueryEngine.from_retriever(FixedRetriever([]), subfoldr="x")


def test_events_of_a_query_come_in_the_frameworks_order(clara, make):
    manager, handler = debugging()
    engine = make(callback_manager=manager)
    with recorded() as events:
        engine.query(QUESTIONS[0])
    assert events.names("Query", "Retrieval", "ReRank", "Synthesize") == [
        *("QueryStartEvent", "RetrievalStartEvent", "RetrievalEndEvent", "ReRankStartEvent", "ReRankEndEvent"),
        *("SynthesizeStartEvent", "SynthesizeEndEvent", "QueryEndEvent"),
    ]
    started = [event.event_type.value for event in handler.get_events() if event.payload]
    assert {"query", "reranking", "synthesize"} <= set(started)


@pytest.mark.parametrize("how", ["16 threads", "64 asyncio tasks"])
def test_many_callers_get_what_one_by_one_gives(clara, tiny_clara_folder, how):
    rerank = ClaraRerank(model=tiny_clara_folder, top_n=2, **LOADING)
    synthesizer = ClaraSynthesizer(tiny_clara_folder, **FEW, **LOADING)

    def nodes(start):
        return text_nodes([*TEXTS[start:], *TEXTS[:start]][:3])

    def ask(call):
        found = rerank.postprocess_nodes(nodes(call[1]), query_str=call[0])
        return [(node.text, node.score) for node in found], synthesizer.synthesize(call[0], found).response

    async def aask(call):
        found = await rerank.apostprocess_nodes(nodes(call[1]), query_str=call[0])
        return [(node.text, node.score) for node in found], (await synthesizer.asynthesize(call[0], found)).response

    async def all_at_once():
        return await asyncio.gather(*map(aask, CALLS))

    alone = {call: ask(call) for call in set(CALLS)}
    clara.store.clear()
    if how == "16 threads":
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(ask, CALLS))
    else:
        together = asyncio.run(all_at_once())
    for call, (ranking, answer) in zip(CALLS, together, strict=True):
        texts, scores = zip(*ranking, strict=True)
        known_texts, known_scores = zip(*alone[call][0], strict=True)
        assert (texts, answer) == (known_texts, alone[call][1])
        assert scores == pytest.approx(known_scores, abs=1e-6)


LIGHT = """
import sys
sys.modules["haystack"] = None
import clara_integrations.llama_index as ours
ours.ClaraRerank(), ours.ClaraSynthesizer(), ours.ClaraEmbedding(), ours.ClaraLLM()
print([name for name in ("torch", "transformers", "openai") if name in sys.modules])
"""


def test_importing_and_making_components_loads_no_torch_and_no_haystack():
    out = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, env={**os.environ}, check=True)
    assert out.stdout.strip() == "[]"

"""ClaraRetriever: the passages of a store as nodes, in LlamaIndex's engines, events and forms of saving."""

import asyncio
import json
import pickle

import pytest
from counting import encoded
from llama_index.core.callbacks import CBEventType
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index_kit import LOADING, debugging, recorded
from pydantic import ValidationError
from small_model import QUESTIONS, TEXTS
from store_kit import filled

from clara_integrations.llama_index import ClaraQueryEngine, ClaraRerank, ClaraRetriever, ClaraSynthesizer
from clara_model.errors import ClaraError
from clara_model.inference.clara import Clara

QUESTION = QUESTIONS[0]


@pytest.fixture(scope="module")
def store(tiny_clara_folder, tmp_path_factory):
    return filled(tiny_clara_folder, tmp_path_factory.mktemp("kept"))


@pytest.fixture
def retriever(clara, tiny_clara_folder, store):
    return ClaraRetriever(tiny_clara_folder, store=store, **LOADING)


def test_it_finds_what_the_reranker_ranks_first_with_the_same_scores(retriever, clara):
    retriever.similarity_top_k = 3
    ranked = clara.rank(QUESTION, TEXTS, 3)
    found = retriever.retrieve(QUESTION)
    assert [node.text for node in found] == [TEXTS[one.index] for one in ranked]
    assert [node.score for node in found] == pytest.approx([one.score for one in ranked], abs=1e-5)
    assert {type(node.score) for node in found} == {float}
    first = found[0].node
    assert first.node_id == f"{ranked[0].index}.txt, passage 1"
    assert first.source_node.node_id == f"{ranked[0].index}.txt"
    assert first.metadata == {"file": f"{ranked[0].index}.txt", "year": 1960 + ranked[0].index}
    assert (first.start_char_idx, first.end_char_idx) == (0, len(first.text))
    assert first.get_content(MetadataMode.LLM) == first.get_content(MetadataMode.EMBED) == first.text


def test_without_a_number_it_finds_as_many_as_the_checkpoint_answers_from(retriever, clara):
    assert len(retriever.retrieve(QUESTION)) == min(clara.top_k, len(TEXTS))


def test_what_it_found_is_reranked_and_answered_from_without_compressing_anything(
    retriever, tiny_clara_folder, store, clara, monkeypatch
):
    clara.store.clear()
    options = {"store": str(store), **LOADING}
    engines = [
        ClaraQueryEngine.from_retriever(retriever, tiny_clara_folder, max_new_tokens=4, **options),
        RetrieverQueryEngine(retriever, ClaraSynthesizer(tiny_clara_folder, max_new_tokens=4, **options)),
    ]
    with encoded(monkeypatch) as counts:
        answers = [engine.query(QUESTION) for engine in engines]
    assert counts == {"compressor": 0, "query_reasoner": 3}
    assert answers[0].source_nodes
    ranked = ClaraRerank(tiny_clara_folder, **options).postprocess_nodes(answers[1].source_nodes, query_str=QUESTION)
    assert [node.node_id for node in ranked] == [node.node_id for node in answers[1].source_nodes]


def one(key, value, operator="=="):
    return MetadataFilter(key=key, value=value, operator=operator)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (MetadataFilters(filters=[one("file", "2.txt")]), {2}),
        (MetadataFilters(filters=[one("year", 1961, ">="), one("year", 1963, "<")]), {1, 2}),
        (MetadataFilters(filters=[one("file", ["0.txt", "4.txt"], "in")]), {0, 4}),
        (MetadataFilters(filters=[one("year", 1960), one("year", 1964)], condition=FilterCondition.OR), {0, 4}),
        (MetadataFilters(filters=[one("year", 1962, "<")], condition=FilterCondition.NOT), {2, 3, 4}),
        (
            MetadataFilters(filters=[one("year", 1962, "!="), MetadataFilters(filters=[one("year", 1963, ">")])]),
            {4},
        ),
        (MetadataFilters(filters=[one("year", ["x"], FilterOperator.ANY)]), set()),
        (MetadataFilters(filters=[]), {0, 1, 2, 3, 4}),
    ],
)
def test_filters(retriever, filters, expected):
    retriever.filters, retriever.similarity_top_k = filters, 5
    assert {int(node.metadata["file"][0]) for node in retriever.retrieve(QUESTION)} == expected


def test_a_filter_that_makes_no_sense_is_named(retriever):
    retriever.filters = MetadataFilters(filters=[one("file", "0", FilterOperator.IN)])
    with pytest.raises(ValueError, match="ClaraRetriever: the operator 'in' takes a list, got '0'"):
        retriever.retrieve(QUESTION)


def test_asynchronous_gives_the_same(retriever):
    async def ask():
        return await asyncio.gather(*(retriever.aretrieve(question) for question in QUESTIONS))

    assert asyncio.run(ask()) == [retriever.retrieve(question) for question in QUESTIONS]


def test_it_is_saved_with_its_filters_and_finds_the_same(retriever):
    retriever.filters = MetadataFilters(filters=[one("year", 1962, "<")])
    saved = retriever.to_dict()
    for other in (ClaraRetriever.from_dict(json.loads(json.dumps(saved))), pickle.loads(pickle.dumps(retriever))):
        assert other.to_dict() == saved
        assert other.retrieve(QUESTION) == retriever.retrieve(QUESTION)


def test_events(retriever):
    manager, handler = debugging()
    retriever.callback_manager = manager
    with recorded() as events:
        retriever.retrieve(QUESTION)
    assert events.names("Retrieval") == ["RetrievalStartEvent", "RetrievalEndEvent"]
    assert len(handler.get_event_pairs(CBEventType.RETRIEVE)) == 1


def test_what_is_missing_is_said(tiny_clara_folder, tmp_path):
    with pytest.raises(ValidationError, match="a ClaraRetriever needs store="):
        ClaraRetriever(tiny_clara_folder)
    with pytest.raises(ValidationError, match="greater than 0"):
        ClaraRetriever(tiny_clara_folder, store="s", similarity_top_k=0)
    nowhere = ClaraRetriever(tiny_clara_folder, store=tmp_path / "nowhere", **LOADING)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; make it with: clara compress"):
        nowhere.retrieve(QUESTION)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="ClaraRetriever: query must not be blank"):
        nowhere.retrieve(" ")


def test_a_model_that_was_handed_over_brings_its_store(tiny_clara_folder, store):
    with Clara.load(tiny_clara_folder, store=store, dtype="float32", device="cpu") as held:
        assert ClaraRetriever(held, similarity_top_k=1).retrieve(QUESTION)
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as held:
        with pytest.raises(ClaraError, match="there is no store to search in"):
            ClaraRetriever(held).retrieve(QUESTION)


def test_blocks_without_a_document_have_ids_of_their_own(tiny_clara_folder, tmp_path):
    with Clara.load(tiny_clara_folder, store=tmp_path, dtype="float32", device="cpu") as held:
        held.compress(TEXTS)
        found = ClaraRetriever(held, similarity_top_k=5).retrieve(QUESTION)
        assert len({node.node_id for node in found}) == 5
        assert found[0].node.source_node is None
        assert ClaraRetriever(held, similarity_top_k=5).retrieve(QUESTION) == found


def test_a_store_without_texts_is_refused(tiny_clara_folder, tmp_path):
    from clara_model.store import open_store

    with open_store(tmp_path / "kept", keep_text=False) as kept:
        with Clara.load(tiny_clara_folder, store=kept, dtype="float32", device="cpu") as held:
            held.compress(TEXTS[:1])
            with pytest.raises(ClaraError, match="ClaraRetriever: the store keeps no texts"):
                ClaraRetriever(held).retrieve(QUESTION)

"""ClaraRerank: the order and scores of `Clara.rank`, and a LlamaIndex postprocessor's manners."""

import asyncio
import copy
import json
import pickle
import threading

import pytest
from counting import encoded
from edge_cases import DEFAULT_TOP_K, EDGE_CASES
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index_kit import LOADING, debugging, edge_nodes, recorded, text_nodes
from pydantic import ValidationError
from small_model import QUESTIONS, TEXTS

from clara_integrations.llama_index import ClaraRerank
from clara_model.inference.clara import Clara

QUESTION = QUESTIONS[0]


@pytest.fixture
def rerank(clara, tiny_clara_folder):
    return ClaraRerank(model=tiny_clara_folder, top_n=3, **LOADING)


def test_it_gives_new_nodes_in_the_models_order_with_its_scores(rerank, clara):
    nodes = text_nodes(TEXTS)
    before = copy.deepcopy(nodes)
    found = rerank.postprocess_nodes(nodes, query_str=QUESTION)
    texts = [node.node.get_content(MetadataMode.EMBED) for node in nodes]
    expected = clara.rank(QUESTION, texts, 3)
    assert [(node.node_id, node.score) for node in found] == [(f"n{one.index}", one.score) for one in expected]
    assert all(type(node.score) is float for node in found)
    assert nodes == before
    assert not {id(node) for node in found} & {id(node) for node in nodes}


def test_without_top_n_it_keeps_what_the_checkpoint_answers_from(clara, tiny_clara_folder):
    rerank = ClaraRerank(model=tiny_clara_folder, **LOADING)
    assert len(rerank.postprocess_nodes(text_nodes(TEXTS), query_str=QUESTION)) == clara.model.config.top_k == 2


def test_nodes_below_the_threshold_are_left_out(rerank, clara, tiny_clara_folder):
    nodes = text_nodes(TEXTS)
    second = clara.rank(QUESTION, [node.node.get_content(MetadataMode.EMBED) for node in nodes])[1].score
    strict = ClaraRerank(model=tiny_clara_folder, top_n=3, score_threshold=second, **LOADING)
    assert (
        strict.postprocess_nodes(nodes, query_str=QUESTION) == rerank.postprocess_nodes(nodes, query_str=QUESTION)[:2]
    )
    strict.score_threshold = 2.0
    assert strict.postprocess_nodes(nodes, query_str=QUESTION) == []


def test_guards_come_before_events_and_before_the_model():
    rerank = ClaraRerank(model="nowhere")
    with recorded() as events:
        assert rerank.postprocess_nodes([], query_str=QUESTION) == []
        with pytest.raises(ValueError, match="Query bundle must be provided"):
            rerank.postprocess_nodes(text_nodes(TEXTS))
        with pytest.raises(ValueError, match="blank"):
            rerank.postprocess_nodes(text_nodes(TEXTS), query_str=" ")
        with pytest.raises(ValueError, match="both"):
            rerank.postprocess_nodes(text_nodes(TEXTS), QueryBundle(QUESTION), QUESTION)
    assert events.names("ReRank") == []


def test_both_kinds_of_events_are_given(rerank):
    rerank.callback_manager, handler = debugging()
    nodes = text_nodes(TEXTS)
    with recorded() as events:
        found = rerank.postprocess_nodes(nodes, query_str=QUESTION)
    assert events.names("ReRank") == ["ReRankStartEvent", "ReRankEndEvent"]
    start, end = [event for event in events.events if "ReRank" in type(event).__name__]
    assert (start.top_n, start.model_name, start.nodes) == (3, rerank.model, nodes)
    assert start.query.query_str == QUESTION
    assert end.nodes == found
    ((begun, ended),) = handler.get_event_pairs(CBEventType.RERANKING)
    assert begun.payload[EventPayload.TOP_K] == 3
    assert begun.payload[EventPayload.QUERY_STR] == QUESTION
    assert ended.payload[EventPayload.NODES] == found


def test_the_retrieval_score_is_kept_where_no_prompt_sees_it(clara, tiny_clara_folder):
    rerank = ClaraRerank(model=tiny_clara_folder, top_n=2, keep_retrieval_score=True, **LOADING)
    nodes = text_nodes(TEXTS[:2], [0.7, None])
    again = rerank.postprocess_nodes(rerank.postprocess_nodes(nodes, query_str=QUESTION), query_str=QUESTION)
    plain = {node.node_id: node for node in nodes}
    first = rerank.postprocess_nodes(nodes, query_str=QUESTION)
    assert {node.node_id: node.metadata["retrieval_score"] for node in first} == {"n0": 0.7, "n1": None}
    for node in [*first, *again]:
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert node.node.get_content(mode) == plain[node.node_id].node.get_content(mode)
    assert all("retrieval_score" not in node.metadata for node in nodes)


def test_the_metadata_mode_says_which_metadata_is_ranked(clara, tiny_clara_folder):
    node = TextNode(text=TEXTS[0], metadata={"a": "for vectors", "b": "for prompts"})
    node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys = ["b"], ["a"]
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        rerank = ClaraRerank(model=tiny_clara_folder, metadata_mode=mode, **LOADING)
        (found,) = rerank.postprocess_nodes([NodeWithScore(node=node)], query_str=QUESTION)
        assert found.score == clara.rank(QUESTION, [node.get_content(mode)])[0].score


def test_async_leaves_the_loop_free(rerank, monkeypatch):
    gate, rank = threading.Event(), Clara.rank

    def waiting(self, *args):
        assert gate.wait(30), "the loop was blocked"
        return rank(self, *args)

    monkeypatch.setattr(Clara, "rank", waiting)

    async def both():
        task = asyncio.create_task(rerank.apostprocess_nodes(text_nodes(TEXTS), query_str=QUESTION))
        await asyncio.sleep(0.05)
        gate.set()
        return await task

    found = asyncio.run(both())
    assert found == rerank.postprocess_nodes(text_nodes(TEXTS), query_str=QUESTION)


def test_it_comes_back_from_a_dict_json_and_pickle(rerank):
    saved = rerank.to_dict()
    assert saved == {
        "class_name": "ClaraRerank",
        "model": rerank.model,
        "subfolder": None,
        "revision": None,
        "base_model": None,
        "prompts": None,
        "device": "cpu",
        "dtype": "float32",
        "attn_implementation": None,
        "quantization": None,
        "decoding": None,
        "batch_size": None,
        "batch_tokens": None,
        "cache_bytes": None,
        "long_documents": None,
        "store": None,
        "cold": None,
        "ranking": None,
        "expand": None,
        "engine_url": None,
        "engine_timeout": None,
        "top_n": 3,
        "score_threshold": None,
        "keep_retrieval_score": False,
        "metadata_mode": "embed",
    }
    expected = rerank.postprocess_nodes(text_nodes(TEXTS), query_str=QUESTION)
    copies = [
        ClaraRerank.from_dict(saved),
        ClaraRerank.from_dict(json.loads(rerank.to_json())),
        pickle.loads(pickle.dumps(rerank)),
        copy.deepcopy(rerank),
    ]
    for other in copies:
        assert not other._holder.loaded
        assert other.to_dict() == saved
        assert other.postprocess_nodes(text_nodes(TEXTS), query_str=QUESTION) == expected


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"top_n": 0}, ValidationError, "greater than 0"),
        ({"top_n": -1}, ValidationError, "greater than 0"),
        ({"batch_size": 0}, ValidationError, "greater than 0"),
        ({"cache_bytes": -1}, ValidationError, "greater than or equal to 0"),
        ({"top_k": 3}, ValidationError, "not permitted"),
        ({"dtype": "float8"}, ValidationError, "bfloat16"),
        ({"model": 3}, TypeError, "a name, a folder or a Clara"),
    ],
)
def test_bad_fields_are_refused(fields, error, words):
    with pytest.raises(error, match=words):
        ClaraRerank(**fields)


def test_what_was_loaded_cannot_be_renamed(rerank):
    with pytest.raises(ValidationError, match="frozen"):
        rerank.model = "another"


def test_a_clara_of_your_own_serves_but_is_not_saved(clara, rerank):
    own = ClaraRerank(model=clara, top_n=3)
    expected = rerank.postprocess_nodes(text_nodes(TEXTS), query_str=QUESTION)
    assert own.postprocess_nodes(text_nodes(TEXTS), query_str=QUESTION) == expected
    for save in (own.to_dict, own.to_json, lambda: pickle.dumps(own)):
        with pytest.raises(ValueError, match="loaded Clara cannot be saved"):
            save()
    own.close()
    assert clara.fingerprint  # its owner's to close
    with pytest.raises(ValueError, match="device"):
        ClaraRerank(model=clara, device="cpu")


def test_close_lets_go_and_the_next_use_loads_again(rerank):
    expected = rerank.postprocess_nodes(text_nodes(TEXTS), query_str=QUESTION)
    rerank.close()
    rerank.close()
    assert not rerank._holder.loaded
    assert rerank.postprocess_nodes(text_nodes(TEXTS), query_str=QUESTION) == expected


@pytest.mark.parametrize("case", EDGE_CASES, ids=lambda case: case.name)
def test_edge_cases(case, clara, tiny_clara_folder, monkeypatch):
    def ask():
        top_n = DEFAULT_TOP_K if case.top_k is None else case.top_k
        rerank = ClaraRerank(model=tiny_clara_folder, top_n=top_n, **LOADING)
        return rerank.postprocess_nodes(edge_nodes(case), query_bundle=QueryBundle(case.query))

    if case.expect == "error":
        with pytest.raises(ValueError):
            ask()
        return
    with encoded(monkeypatch) as counts:
        found = ask()
    if case.expect == "empty":
        assert found == []
        assert counts == {"compressor": 0, "query_reasoner": 0}
        return
    ids, scores = [node.node_id for node in found], [node.score for node in found]
    assert len(found) == len(set(ids)) == case.count
    assert case.order is None or tuple(ids) == case.order
    assert scores == sorted(scores, reverse=True)
    assert all(type(score) is float for score in scores)
    texts = {node.node_id: node.node.get_content() for node in found}
    assert all(texts[name] == text for name, text in case.kept)
    given = {doc.id: doc.meta for doc in case.documents}
    assert all(node.metadata == given[node.node_id] for node in found)

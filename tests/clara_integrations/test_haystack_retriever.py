"""ClaraRetriever: the passages of a store as documents, in a pipeline, with Haystack's filters and forms of saving."""

import asyncio

import pytest
from counting import encoded
from haystack import Pipeline
from haystack_kit import LOADING, SHORT
from small_model import QUESTIONS, TEXTS
from store_kit import filled

from clara_integrations.haystack import ClaraGenerator, ClaraRanker, ClaraRetriever
from clara_model.errors import ClaraError
from clara_model.inference.clara import Clara

QUESTION = QUESTIONS[0]
OLD = {"field": "meta.year", "operator": "<", "value": 1962}


@pytest.fixture(scope="module")
def store(tiny_clara_folder, tmp_path_factory):
    return filled(tiny_clara_folder, tmp_path_factory.mktemp("kept"))


@pytest.fixture
def retriever(clara, tiny_clara_folder, store):
    return ClaraRetriever(tiny_clara_folder, store=store, **LOADING)


def test_it_finds_what_the_ranker_ranks_first_with_the_same_scores(retriever, clara):
    ranked = clara.rank(QUESTION, TEXTS, 3)
    found = retriever.run(QUESTION, top_k=3)["documents"]
    assert [doc.content for doc in found] == [TEXTS[one.index] for one in ranked]
    assert [doc.score for doc in found] == pytest.approx([one.score for one in ranked], abs=1e-5)
    assert {type(doc.score) for doc in found} == {float}
    number, file = ranked[0].index, f"{ranked[0].index}.txt"
    assert found[0].id == f"{file}, passage 1"
    assert found[0].meta == {
        "file": file,
        "year": 1960 + number,
        "source_id": file,
        "split_id": 0,
        "split_idx_start": 0,
    }


@pytest.mark.integration
def test_in_a_pipeline_that_goes_through_yaml_nothing_is_compressed(
    retriever, tiny_clara_folder, store, clara, monkeypatch
):
    clara.store.clear()
    options = {"model": tiny_clara_folder, "store": store, **LOADING}
    pipeline = Pipeline()
    pipeline.add_component("retriever", ClaraRetriever(top_k=3, filters=OLD, **options))
    pipeline.add_component("ranker", ClaraRanker(**options))
    pipeline.add_component("generator", ClaraGenerator(generation_kwargs=SHORT, **options))
    pipeline.connect("retriever", "ranker")
    pipeline.connect("ranker", "generator")
    again = Pipeline.loads(pipeline.dumps())
    assert again.to_dict()["components"] == pipeline.to_dict()["components"]
    with encoded(monkeypatch) as counts:
        result = again.run({"query": QUESTION}, include_outputs_from={"retriever", "ranker"})
    assert counts["compressor"] == 0
    assert len(result["generator"]["replies"]) == 1
    first, second = (result[name]["documents"] for name in ("retriever", "ranker"))
    assert [doc.id for doc in first] == [doc.id for doc in second]
    assert {doc.meta["year"] for doc in first} == {1960, 1961}


def of(field, operator, value):
    return {"field": field, "operator": operator, "value": value}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (of("meta.file", "==", "2.txt"), {2}),
        (of("year", "!=", 1962), {0, 1, 3, 4}),
        (of("meta.year", "in", [1960, 1961]), {0, 1}),
        (of("meta.year", "not in", [1960, 1961]), {2, 3, 4}),
        ({"operator": "AND", "conditions": [of("meta.year", ">=", 1961), of("meta.year", "<", 1963)]}, {1, 2}),
        ({"operator": "OR", "conditions": [of("meta.year", ">", 1963), of("meta.file", "==", "0.txt")]}, {0, 4}),
        ({"operator": "NOT", "conditions": [of("meta.year", "<=", 1963)]}, {4}),
        ({}, {0, 1, 2, 3, 4}),
    ],
)
def test_filters(retriever, filters, expected):
    retriever.filters = of("meta.file", "==", "none of them")
    assert retriever.run(QUESTION)["documents"] == []
    assert {int(doc.meta["file"][0]) for doc in retriever.run(QUESTION, filters=filters)["documents"]} == expected


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"year": 3}, "a filter is a dict with an 'operator'"),
        (of("meta.year", "~", 3), "a comparison has a value and one of ==, !="),
        ({"field": "meta.year", "operator": "=="}, "a comparison has a value"),
        ({"operator": "XOR", "conditions": []}, "conditions are joined by AND, OR, NOT"),
        (of("content", "==", "a"), "filters are on metadata such as 'meta.file', but got the field 'content'"),
    ],
)
def test_filters_that_make_no_sense_are_refused_at_construction_and_when_it_runs(retriever, filters, message):
    with pytest.raises(ValueError, match=f"ClaraRetriever: {message}"):
        ClaraRetriever(store="s", filters=filters)
    with pytest.raises(ValueError, match=f"ClaraRetriever: {message}"):
        retriever.run(QUESTION, filters)


def test_asynchronous_gives_the_same(retriever):
    async def ask():
        return await asyncio.gather(*(retriever.run_async(question, OLD, 1) for question in QUESTIONS))

    assert asyncio.run(ask()) == [retriever.run(question, OLD, 1) for question in QUESTIONS]


def test_plain_values(store):
    made = ClaraRetriever("some/name", store=store, filters=OLD, top_k=3)
    saved = made.to_dict()
    assert saved["type"] == "haystack_integrations.components.retrievers.clara.retriever.ClaraRetriever"
    assert saved["init_parameters"] == {
        "model": "some/name",
        "store": str(store),
        "filters": OLD,
        "top_k": 3,
        "subfolder": None,
        "revision": None,
        "dtype": None,
        "device": None,
        "token": {"type": "env_var", "env_vars": ["HF_API_TOKEN", "HF_TOKEN"], "strict": False},
        "model_kwargs": {},
    }
    assert ClaraRetriever.from_dict(saved).to_dict() == saved
    with pytest.raises(AttributeError, match="store says which model is loaded"):
        made.store = "other"


def test_warm_up_close_and_what_is_missing(tiny_clara_folder, store, tmp_path):
    with pytest.raises(ValueError, match="ClaraRetriever needs store="):
        ClaraRetriever("clara-tiny")
    with pytest.raises(ValueError, match="ClaraRetriever: top_k must be > 0, but got 0"):
        ClaraRetriever("clara-tiny", store=store, top_k=0)
    nowhere = ClaraRetriever(tiny_clara_folder, store=tmp_path / "nowhere", **LOADING)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        nowhere.warm_up()
    assert not (tmp_path / "nowhere").exists()
    made = ClaraRetriever(tiny_clara_folder, store=store, **LOADING)
    made.warm_up()
    expected = made.run(QUESTION)
    made.close()
    made.close()
    assert made.run(QUESTION) == expected
    with pytest.raises(ValueError, match="ClaraRetriever: query must not be blank"):
        made.run("")
    made.close()


def test_a_model_that_was_handed_over_brings_its_store(tiny_clara_folder, store):
    with Clara.load(tiny_clara_folder, store=store, dtype="float32", device="cpu") as held:
        assert len(ClaraRetriever(held, top_k=2).run(QUESTION)["documents"]) == 2
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as held:
        with pytest.raises(ClaraError, match="there is no store to search in"):
            ClaraRetriever(held).run(QUESTION)

"""ClaraRanker: the order and scores of `Clara.rank`, and a Haystack ranker's manners."""

import copy

import pytest
from counting import encoded
from edge_cases import EDGE_CASES
from haystack import Document
from haystack_kit import LOADING, documents_of, edge_documents
from small_model import QUESTIONS, TEXTS, build_model

from clara_integrations.haystack import ClaraRanker
from clara_model.errors import ClaraError
from clara_model.inference.clara import Clara

QUESTION = QUESTIONS[0]


@pytest.fixture
def ranker(clara, tiny_clara_folder):
    return ClaraRanker(model=tiny_clara_folder, **LOADING)


def test_it_gives_new_documents_in_the_models_order_with_its_scores(ranker, clara):
    documents = documents_of(TEXTS)
    before = copy.deepcopy(documents)
    found = ranker.run(QUESTION, documents)["documents"]
    expected = clara.rank(QUESTION, TEXTS)
    assert [(doc.id, doc.score) for doc in found] == [(f"n{one.index}", one.score) for one in expected]
    assert all(type(doc.score) is float for doc in found)
    assert documents == before


def test_top_k_of_a_run_goes_before_the_components(clara, tiny_clara_folder):
    ranker = ClaraRanker(model=tiny_clara_folder, top_k=2, **LOADING)
    assert len(ranker.run(QUESTION, documents_of(TEXTS))["documents"]) == 2
    assert len(ranker.run(QUESTION, documents_of(TEXTS), top_k=3)["documents"]) == 3


def test_a_threshold_leaves_out_what_is_below_it_and_zero_is_one(clara, tiny_clara_folder):
    documents, scores = documents_of(TEXTS), [one.score for one in clara.rank(QUESTION, TEXTS)]
    ranker = ClaraRanker(model=tiny_clara_folder, score_threshold=2.0, **LOADING)
    assert ranker.run(QUESTION, documents)["documents"] == []
    assert len(ranker.run(QUESTION, documents, score_threshold=scores[1])["documents"]) == 2
    above = sum(score >= 0.0 for score in scores)
    assert len(ranker.run(QUESTION, documents, score_threshold=0.0)["documents"]) == above


def test_named_metadata_is_read_before_the_content(clara, tiny_clara_folder):
    ranker = ClaraRanker(
        model=tiny_clara_folder, meta_fields_to_embed=["title", "year"], embedding_separator=" - ", **LOADING
    )
    documents = [
        Document(content=TEXTS[0], meta={"year": 1962, "title": "Clocks", "other": "unseen"}),
        Document(content=TEXTS[1], meta={"title": None}),
    ]
    expected = clara.rank(QUESTION, [f"Clocks - 1962 - {TEXTS[0]}", TEXTS[1]])
    found = ranker.run(QUESTION, documents)["documents"]
    assert [doc.score for doc in found] == [one.score for one in expected]


@pytest.mark.parametrize("case", EDGE_CASES, ids=lambda case: case.name)
def test_edge_cases(case, ranker, monkeypatch):
    documents = edge_documents(case)
    with encoded(monkeypatch) as counts:
        if case.expect == "error":
            with pytest.raises(ValueError):
                ranker.run(case.query, documents, case.top_k)
        else:
            found = ranker.run(case.query, documents, case.top_k)["documents"]
    if case.expect != "ranked":
        assert counts == {"compressor": 0, "query_reasoner": 0}
        assert case.expect == "error" or found == []
        return
    ids, scores = [doc.id for doc in found], [doc.score for doc in found]
    assert len(ids) == len(set(ids)) == case.count
    assert case.order is None or tuple(ids) == case.order
    assert scores == sorted(scores, reverse=True)
    assert all(type(score) is float for score in scores)
    assert {(doc.id, doc.content) for doc in found} >= set(case.kept)
    given = {doc.id: doc.meta for doc in case.documents}
    assert all(doc.meta == given[doc.id] for doc in found)


@pytest.mark.parametrize("top_k", [0, -1])
def test_a_bad_top_k_is_refused_at_construction(top_k):
    with pytest.raises(ValueError, match=f"top_k must be > 0, but got {top_k}"):
        ClaraRanker(top_k=top_k)


def test_what_is_not_a_query_or_not_documents_is_refused(ranker):
    with pytest.raises(TypeError, match="query must be a string, but got NoneType"):
        ranker.run(None, documents_of(TEXTS))
    with pytest.raises(TypeError, match="ClaraRanker expects a list of Documents, but got a list with str"):
        ranker.run(QUESTION, ["text"])
    with pytest.raises(TypeError, match="but got Document"):
        ranker.run(QUESTION, documents_of(TEXTS)[0])


def test_a_checkpoint_without_a_query_reasoner_is_told_so(base_folder):
    ranker = ClaraRanker(model=Clara(build_model(base_folder, roles=("compressor", "generator"))))
    with pytest.raises(ClaraError, match="no query reasoner"):
        ranker.run(QUESTION, documents_of(TEXTS))

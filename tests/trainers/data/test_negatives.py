"""Searches: nearest first, ties in order, and the same interface for words and for vectors."""

import sys
from types import ModuleType

import numpy as np
import pytest

from clara_model.errors import ClaraError
from trainers.data import negatives
from trainers.data.negatives import BM25Search, PassagePool, VectorSearch, make_search

TEXTS = [
    "The tide clock of Larkhaven was catalogued by Ada Fenwick.",
    "The copper mill of Osmere was rebuilt by Mei Lin.",
    "Tide tables are printed in Larkhaven each spring.",
    "Oskar Brandt counts the visitors of the signal tower.",
]


class WordVectors:
    """An encoder: one dimension per word of a small vocabulary."""

    words = ("tide", "mill", "tower", "larkhaven")

    def documents(self, texts):
        return np.array([[float(word in text.lower()) for word in self.words] for text in texts])

    questions = documents


def test_a_pool_holds_each_text_once_whatever_its_case_and_spaces():
    pool = PassagePool(["One  text", "another"])
    assert (pool.add("one text\n"), pool.add("third"), len(pool)) == (0, 2, 3)
    assert pool.texts == ["One  text", "another", "third"]


def test_bm25_finds_the_nearest_first_and_nothing_without_a_common_word():
    search = BM25Search(TEXTS)
    found = search.nearest(["Who rebuilt the mill of Osmere?", "tide clock Larkhaven", "zebra", "the of"], 3)
    assert found == [[1], [0, 2], [], []]


def test_bm25_with_equal_scores_keeps_the_order_and_a_small_pool_is_enough():
    assert BM25Search(["a cat sat"] * 4).nearest(["cat"], 3) in ([[0, 1, 2]], [[1, 2, 3]])  # all four are equal
    assert BM25Search(["cat", "dog"]).nearest(["dog and cat"], 50) == [[0, 1]]
    assert BM25Search(["of the", ""]).nearest(["cat"], 5) == [[]]


def test_bm25_answers_many_questions():
    assert BM25Search(TEXTS).nearest(["mill", "tower", "spring", "clock", "mill"], 1) == [[1], [3], [2], [0], [1]]


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_vectors_are_ranked_by_cosine_block_by_block(monkeypatch, rows_at_once):
    monkeypatch.setattr(negatives, "_ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(negatives, "_BATCH", 2)
    search = VectorSearch(TEXTS, WordVectors())
    assert search.nearest(["the tide of Larkhaven", "a mill", "a tower"], 2) == [[0, 2], [1, 0], [3, 0]]
    assert search.nearest(["tower"], 9) == [[3, 0, 1, 2]]


def test_sentence_transformers_encode_questions_and_documents_each_in_their_way(monkeypatch):
    calls = []

    class Model:
        def __init__(self, name):
            if name == "absent":
                raise OSError("no such model\ndetails")
            calls.append(name)

        def encode_document(self, texts, show_progress_bar):
            calls.append("document")
            return WordVectors().documents(texts)

        def encode_query(self, texts, show_progress_bar):
            calls.append("query")
            return WordVectors().documents(texts)

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = Model
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    assert make_search("embedding", TEXTS, "small").nearest(["mill"], 1) == [[1]]
    assert calls == ["small", "document", "query"]
    with pytest.raises(ClaraError, match=r"'absent' cannot be loaded \(no such model\)"):
        make_search("embedding", TEXTS, "absent")


def test_a_clara_checkpoint_ranks_as_its_own_scores_do(tiny_clara_folder, model):
    found = make_search("embedding", TEXTS, f"clara:{tiny_clara_folder}").nearest(["Who came?", "Which mill?"], 4)
    scores = model.score(model.encode_queries(["Who came?", "Which mill?"]), model.compress(TEXTS))
    assert found == scores.argsort(dim=1, descending=True).tolist()


def test_a_store_is_used_again_and_what_else_it_holds_is_passed_over(tiny_clara_folder, model, tmp_path, monkeypatch):
    from clara_model import Clara, ClaraModel

    name = f"clara:{tiny_clara_folder}"
    with Clara.load(tiny_clara_folder, store=tmp_path) as other:  # in the search's type: bfloat16 on some machines
        other.compress([f"The weather of day {number} was calm." for number in range(9)])
    first = make_search("embedding", TEXTS, name, str(tmp_path)).nearest(["Who came?", " "], 3)
    scores = model.score(model.encode_queries(["Who came?"]), model.compress(TEXTS))
    assert first == [scores[0].argsort(descending=True).tolist()[:3], []]
    real, roles = ClaraModel.encode, []
    monkeypatch.setattr(ClaraModel, "encode", lambda self, role, *given: roles.append(role) or real(self, role, *given))
    assert make_search("embedding", TEXTS, name, str(tmp_path)).nearest(["Who came?", " "], 3) == first
    assert set(roles) == {"query_reasoner"}


def test_a_long_passage_counts_by_its_best_window(tiny_clara_folder):
    long = " ".join(TEXTS)
    found = make_search("embedding", [*TEXTS, long], f"clara:{tiny_clara_folder}").nearest(["Who came?"], 5)
    assert sorted(found[0]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bm25", []), "no passages to take negatives from; name some with --corpus"),
        (("tfidf", TEXTS), "negatives must be one of bm25, embedding, got 'tfidf'"),
        (("embedding", TEXTS), "need an --embedding-model"),
        (("embedding", TEXTS, "small", "kept"), "a store keeps latents of a CLaRa checkpoint"),
    ],
)
def test_wrong_choices_are_refused(arguments, message):
    with pytest.raises(ClaraError, match=message):
        make_search(*arguments)


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ClaraError, match=r"clara-integrations\[eval\]"):
        make_search("embedding", TEXTS, "x")

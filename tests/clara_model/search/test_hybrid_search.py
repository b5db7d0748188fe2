"""A store is searched by latents and words together; the score is that of a ranking where all is at hand."""

from pathlib import Path

import pytest
from small_model import QUESTIONS, TEXTS, build_model

from clara_model import ClaraModel
from clara_model.inference.clara import Clara
from clara_model.search import store_search
from clara_model.search.bm25 import BM25
from clara_model.store import open_store
from clara_model.store.cache import durable
from clara_model.store.protocol import StoredDocument, content_key
from clara_model.windows import Window

SHORT = {"max_new_tokens": 4}
MANY = [*TEXTS, *(f"Note {number} of the harbour office says nothing of interest at all." for number in range(300))]


@pytest.fixture(params=["latents", "latents.lance"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / request.param)


def test_what_is_found_is_ranked_as_if_all_were_at_hand(loaded: ClaraModel, folder: str):
    with Clara(loaded, store=folder, ranking="hybrid") as clara:
        latents = clara.compress(MANY)
        for question in QUESTIONS:
            ranked, found = clara.rank(question, latents, 5), clara.search(question, 5)
            assert [one.text for one in found] == [MANY[one.index] for one in ranked]
            for one, other in zip(found, ranked, strict=True):
                assert (one.score, one.latents, one.words) == pytest.approx(
                    (other.score, other.latents, other.words), abs=1e-5
                )
            assert found.latents.texts == tuple(one.text for one in found)


def test_words_find_what_latents_do_not(base_folder: Path, folder: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_search, "CANDIDATES", 5)
    monkeypatch.setattr(store_search, "PER_RESULT", 1)
    model = build_model(base_folder, word_weight=100.0, expand=1)
    with Clara(model, store=folder) as clara, Clara(model, ranking="latents", store=clara.store) as by_latents:
        clara.compress(MANY)
        question = next(
            one for one in QUESTIONS if TEXTS[BM25(MANY).scores(one).argmax()] not in texts(by_latents, one)
        )
        found = clara.search(question, 1)
        assert found[0].text == TEXTS[BM25(MANY).scores(question).argmax()] and found[0].words > 0
        assert by_latents.search(question, 1)[0].words is None
        answer = clara.answer(question, found.latents, rerank=False, **SHORT)
        assert answer.expanded == 1 and answer.unsupported is not None


def texts(clara: Clara, question: str) -> list[str | None]:
    return [one.text for one in clara.search(question, 5)]


def test_a_filter_is_one_for_both(base_folder: Path, folder: str):
    with open_store(folder) as store:
        with Clara(build_model(base_folder, word_weight=100.0), store=store) as clara:
            clara.compress(TEXTS)
            parts = [(f"d{n}", Window(content_key(text), 0, len(text)), n % 2) for n, text in enumerate(TEXTS)]
            store.record([StoredDocument(name, (one,), "x", {"odd": odd}) for name, one, odd in parts])
            for odd in (0, 1):
                found = clara.search(QUESTIONS[0], 9, where={"odd": odd})
                assert {one.text for one in found} == set(TEXTS[odd::2])
            assert clara.search(QUESTIONS[0], 9, where={"odd": 0})[0].text == TEXTS[0]


def test_a_store_without_texts_is_searched_by_latents(loaded: ClaraModel, tmp_path: Path):
    with open_store(str(tmp_path / "bare"), keep_text=False) as store:
        with Clara(loaded, store=store, ranking="hybrid") as clara, Clara(loaded, store=store) as plain:
            clara.compress(TEXTS)
            ours, theirs = clara.search(QUESTIONS[0], 5), plain.search(QUESTIONS[0], 5)
        assert [one.score for one in ours] == [one.score for one in theirs] and ours.latents.texts is None


def test_an_emptied_store_forgets_the_words(loaded: ClaraModel, tmp_path: Path):
    with Clara(loaded, store=tmp_path / "store", ranking="hybrid") as clara:
        clara.compress(TEXTS)
        clara.search(QUESTIONS[0], 1)
        index = tmp_path / "store" / "search" / "words.sqlite"
        assert b"fenwick" in index.read_bytes()
        store_search.StoreSearch(durable(clara.store)).clear()
        assert not index.exists()

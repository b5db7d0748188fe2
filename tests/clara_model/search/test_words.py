"""The texts of a store by their words: what is found, in whichever store, while it changes."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from small_model import QUESTIONS, TEXTS

from clara_model.errors import ClaraError
from clara_model.search.bm25 import BM25
from clara_model.search.words import WordIndex
from clara_model.store import open_store
from clara_model.store.protocol import Block, content_key

FINGERPRINT = "f" * 32


@pytest.fixture(params=["latents", "latents.lance"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    with open_store(str(tmp_path / request.param)) as opened:
        yield opened


def put(store, texts: list[str | None]) -> list[int]:
    """Keep texts as blocks; their numbers."""
    blocks = {content_key(text or str(n)): Block(torch.full((2, 4), 1.0 + n), 3, text) for n, text in enumerate(texts)}
    store.put(FINGERPRINT, blocks)
    numbers = store.numbers(list(blocks))
    return [numbers[key] for key in blocks]


def test_it_finds_what_shares_words_best_first_and_knows_how_rare_they_are(store, tmp_path: Path):
    numbers, index = put(store, TEXTS), WordIndex(tmp_path, store)
    for question in QUESTIONS:
        found, rarity = index.find(question, 3)
        shares = BM25(TEXTS).shares(question)
        assert found[0] == numbers[shares.argmax()] and len(found) == min(3, (shares > 0).sum())
        assert rarity.shares(question, TEXTS) == pytest.approx(shares.tolist())
    assert index.find("?", 3)[0] == index.find("zebra", 3)[0] == index.find('the "of" NEAR(', 3)[0] == []
    assert index.find("TIDE or mill", 9)[0] == index.find("mill tide OR", 9)[0] != []


def test_an_index_of_whole_words_is_made_anew(store, tmp_path: Path):
    numbers, index = put(store, ["Its filters are cleaned."]), WordIndex(tmp_path, store)
    assert index.find("cleans the filter", 3)[0] == numbers
    with sqlite3.connect(tmp_path / "words.sqlite") as old:  # as one was before words lost their endings
        old.execute("UPDATE about SET identity = ?", (store.identity,))
        old.execute("DELETE FROM texts")
    assert WordIndex(tmp_path, store).find("cleans the filter", 3)[0] == numbers


def test_only_what_may_be_found_is(store, tmp_path: Path):
    numbers, index = put(store, TEXTS), WordIndex(tmp_path, store)
    asked = "Osmere Tolvik tide"
    assert set(index.find(asked, 9)[0]) == {numbers[0], numbers[1], numbers[3]}
    assert index.find(asked, 9, [numbers[3], numbers[4]])[0] == [numbers[3]]
    assert index.find(asked, 9, [])[0] == [] and len(index.find(asked, 2)[0]) == 2


def test_it_follows_a_store_that_changes(store, tmp_path: Path):
    numbers, index = put(store, TEXTS[:2]), WordIndex(tmp_path, store)
    assert index.find("Tolvik", 9)[0] == [numbers[1]]
    more = put(store, TEXTS[2:])
    store.delete([content_key(TEXTS[1])])
    for one in (index, WordIndex(tmp_path, store)):
        found, rarity = one.find("Tolvik tide", 9)
        assert set(found) == {numbers[0], more[1]} and rarity.size == 4
        assert rarity.shares("Tolvik", TEXTS) == pytest.approx(rarity.shares("Tolvik", TEXTS))
        left = [TEXTS[0], *TEXTS[2:]]
        assert rarity.shares("Tolvik tide", left) == pytest.approx(BM25(left).shares("Tolvik tide").tolist())
    (again,) = put(store, [TEXTS[1]])
    assert again not in numbers and again in index.find("Osmere", 9)[0]


def test_another_store_of_the_same_folder_is_another_index(tmp_path: Path):
    for name, texts in (("one", TEXTS[:2]), ("two", TEXTS[2:])):
        with open_store(str(tmp_path / name)) as store:
            put(store, texts)
            found, rarity = WordIndex(tmp_path, store).find(" ".join(TEXTS), 9)
            assert len(found) == len(texts) == rarity.size


def test_a_store_without_texts_finds_nothing(tmp_path: Path):
    with open_store(str(tmp_path / "bare"), keep_text=False) as store:
        put(store, TEXTS)
        found, rarity = WordIndex(tmp_path, store).find(QUESTIONS[0], 9)
    assert found == [] and rarity.size == 0 and rarity.shares(QUESTIONS[0], [""]) == [0.0]


def test_threads_bring_one_index_up_to_date(tmp_path: Path):
    with open_store(str(tmp_path / "store")) as store:
        put(store, [f"word{n} common" for n in range(2500)])
        with ThreadPoolExecutor(6) as pool:
            made = list(pool.map(lambda n: WordIndex(tmp_path, store).find(f"word{n}", 3), range(6)))
        assert [len(found) for found, _ in made] == [1] * 6
        assert WordIndex(tmp_path, store).find("common", 9999)[1].size == 2500


def test_a_damaged_index_is_made_anew(tmp_path: Path):
    with open_store(str(tmp_path / "store")) as store:
        put(store, TEXTS)
        index = WordIndex(tmp_path, store)
        before = index.find(QUESTIONS[0], 3)
        (tmp_path / "words.sqlite").write_bytes(b"no database at all, but long enough to be read as one" * 99)
        with pytest.raises(ClaraError, match=r"was damaged .* ask again"):
            index.find(QUESTIONS[0], 3)
        assert index.find(QUESTIONS[0], 3) == before

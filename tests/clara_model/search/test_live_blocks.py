"""What has gone from a store takes no place in a search, and an index that is not the store's is not trusted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clara_model.errors import ClaraError
from clara_model.modeling.ranking import SCORES
from clara_model.search.index import CoarseIndex
from clara_model.search.store_search import StoreSearch
from clara_model.store import Block, DurableStore, StoredDocument, Window, open_store
from clara_model.store.protocol import content_key

FINGERPRINT = "f"
Open = Callable[[], DurableStore]


@pytest.fixture(params=["latents", "latents.lance"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 96, generator=torch.Generator().manual_seed(seed))


def fill(store: DurableStore, vectors: torch.Tensor, first: int = 0) -> list[str]:
    keys = [content_key(str(first + i)) for i in range(len(vectors))]
    store.put(FINGERPRINT, {one: Block(vectors[i], 5, str(first + i)) for i, one in enumerate(keys)})
    return keys


def best(question: torch.Tensor, vectors: torch.Tensor, ranking: str = "cosine") -> list[int]:
    return SCORES[ranking](question[None], vectors)[0].argsort(descending=True).tolist()


@pytest.mark.parametrize("ranking", ["cosine", "late"])
def test_the_nearest_are_deleted_and_the_rest_is_found(place: Path, ranking: str):
    vectors, question = latents(900), latents(1, seed=1)[0]
    with open_store(place) as store:
        keys = fill(store, vectors)
        search = StoreSearch(store, ranking)
        assert len(search.best(question, 5)) == 5
        order = best(question, vectors, ranking)
        store.delete([keys[i] for i in order[:700]])
        for one in (search, StoreSearch(store, ranking)):  # as it was opened, and opened anew
            exact = SCORES[ranking](question[None], vectors[order[700:705]])[0].tolist()
            assert [scored.score for scored in one.best(question, 5)] == pytest.approx(exact, abs=1e-6)
            assert len(one.best(question, 100)) == 100
            assert len(one.best(question, 300)) == 200


def test_all_are_replaced_and_compacted_again_and_again(place: Path):
    vectors, question = latents(300), latents(1, seed=1)[0]
    with open_store(place) as store:
        keys = fill(store, vectors)
        search = StoreSearch(store)
        for _ in range(3):
            search.best(question, 5)
            fill(store, vectors)
            store.compact()
            found = [scored.row.key for scored in search.best(question, 60)]
            assert found == [keys[i] for i in best(question, vectors)[:60]]


def test_candidates_that_turn_out_to_be_damaged_make_room_for_the_next(tmp_path: Path):
    vectors, question = latents(900), latents(1, seed=1)[0]
    order = best(question, vectors)
    with open_store(tmp_path) as store:
        keys = fill(store, vectors)
        assert StoreSearch(store).best(question, 1)[0].row.key == keys[order[0]]
    data = bytearray((tmp_path / "data-1.bin").read_bytes())
    for i in order[:400]:
        data[i * 4 * 96 * 4 + 7] ^= 1
    (tmp_path / "data-1.bin").write_bytes(data)
    with open_store(tmp_path) as store:
        assert [one.row.key for one in StoreSearch(store).best(question, 5)] == [keys[i] for i in order[400:405]]


@pytest.mark.parametrize("later", [900, 20])
def test_an_index_that_is_newer_than_its_store_is_built_anew(place: Path, tmp_path: Path, later: int):
    """As in a copy of the folder whose ``search`` was copied after the rest; ``later`` blocks came in between."""
    vectors = latents(2000)
    copied = tmp_path / f"copied{place.suffix}"
    with open_store(place) as store:
        fill(store, vectors[:50])
    shutil.copytree(place, copied)
    with open_store(place) as store:
        fill(store, vectors[50 : 50 + later], first=50)
        StoreSearch(store).best(vectors[0], 5)
    shutil.copytree(place / "search", copied / "search")
    with open_store(copied) as store:
        keys = fill(store, vectors[:50]) if place.suffix else [content_key(str(i)) for i in range(50)]
        keys += fill(store, vectors[1000:1900], first=1000)
        search = StoreSearch(store)
        there = torch.cat([vectors[:50], vectors[1000:1900]])
        for seed in range(10):
            question = latents(1, seed=100 + seed)[0]
            found = [one.row.key for one in search.best(question, 5)]
            assert found == [keys[i] for i in best(question, there)[:5]]


def test_an_index_without_the_last_blocks_keys_goes_on(tmp_path: Path):
    """As the version before wrote it."""
    vectors = latents(60)
    with open_store(tmp_path) as store:
        fill(store, vectors[:50])
        index = CoarseIndex(tmp_path / "search", store.identity)
        index.update(store)
        with index._connections.writing() as connection:
            connection.execute("DELETE FROM about WHERE name = 'tail'")
        index.close()
        keys = fill(store, vectors[50:], first=50)
        index = CoarseIndex(tmp_path / "search", store.identity)
        assert (index.update(store).count, index.reach().generation) == (60, 1)
        assert StoreSearch(store).best(vectors[55], 1)[0].row.key == keys[5]


def test_a_search_in_a_store_that_was_emptied_says_so(place: Path):
    vectors = latents(20)
    with open_store(place) as store, open_store(place) as other:
        fill(store, vectors)
        search = StoreSearch(store)
        assert len(search.best(vectors[0], 5)) == 5
        other.clear()
        StoreSearch(other).clear()  # as `clara store clear` does
        with pytest.raises(ClaraError, match="was emptied after it was opened here, and holds nothing to search"):
            search.best(vectors[0], 5)
        keys = fill(other, vectors[5:10], first=5)
        assert {one.row.key for one in search.best(vectors[7], 9)} == set(keys)


def test_where_there_is_no_room_the_index_is_kept_in_the_cache_folder(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    vectors = latents(20)
    with open_store(tmp_path / "s") as store:
        keys = fill(store, vectors)
        real = Path.mkdir

        def full(self: Path, *args, **keywords):
            if self.name == "search" and self.parent == tmp_path / "s":
                raise OSError(28, "No space left on device")
            return real(self, *args, **keywords)

        monkeypatch.setattr(Path, "mkdir", full)
        search = StoreSearch(store)
        assert search.best(vectors[7], 1)[0].row.key == keys[7]
        assert search.best(vectors[8], 1)[0].row.key == keys[8]
        assert list((tmp_path / "cache").rglob("coarse.sqlite"))
        assert "No space left on device" in caplog.text


def test_a_filter_counts_what_is_there(place: Path):
    vectors, question = latents(600), latents(1, seed=1)[0]
    with open_store(place) as store:
        keys = fill(store, vectors)
        store.record([StoredDocument(f"{i}", (Window(one, 0, 1),), "d", {"n": i}) for i, one in enumerate(keys)])
        search = StoreSearch(store)
        order = [i for i in best(question, vectors) if i < 400]
        assert [one.row.key for one in search.best(question, 5, {"n": {"$lt": 400}})] == [keys[i] for i in order[:5]]
        store.forget([f"{i}" for i in order[:300]])
        found = search.best(question, 200, {"n": {"$lt": 400}})
        assert [one.row.key for one in found] == [keys[i] for i in order[300:]]

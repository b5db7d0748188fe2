from pathlib import Path

import pytest
from kit import FINGERPRINT, block, blocks, key, same

from clara_model.store import open_store
from clara_model.store.cache import LatentCache, LayeredStore


def test_the_cache_stands_in_front(tmp_path: Path):
    cache = LatentCache()
    with open_store(tmp_path) as durable:
        store = LayeredStore(cache, durable)
        store.put(FINGERPRINT, blocks([1, 2]))
        cache.clear()
        found = store.get(FINGERPRINT, [key(1), key(9), key(1)])
        assert same(found[0], block(1))
        assert found[1] is None
        assert same(found[2], block(1))
        assert len(cache) == 1
        durable.delete([key(1)])
        assert same(store.get(FINGERPRINT, [key(1)])[0], block(1))


def test_what_the_cache_has_no_room_for_is_in_the_store(tmp_path: Path):
    with open_store(tmp_path) as durable:
        store = LayeredStore(LatentCache(0), durable)
        store.put(FINGERPRINT, blocks(range(10)))
        assert all(same(one, block(i)) for i, one in enumerate(store.get(FINGERPRINT, [key(i) for i in range(10)])))


def test_what_the_model_made_without_the_store_is_not_taken_for_the_stores(tmp_path: Path):
    cache = LatentCache()
    cache.put(FINGERPRINT, blocks([1]))
    with open_store(tmp_path / "a") as one, open_store(tmp_path / "b") as other:
        first, second = LayeredStore(cache, one), LayeredStore(cache, other)
        assert first.get(FINGERPRINT, [key(1)]) == [None]
        first.put(FINGERPRINT, blocks([1]))
        assert second.get(FINGERPRINT, [key(1)]) == [None]
        assert (one.stats().blocks, other.stats().blocks) == (1, 0)


@pytest.mark.parametrize("name", ["latents", "latents.lance"])
def test_what_is_cached_is_trusted_until_the_store_changes(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    with open_store(tmp_path / name) as durable, open_store(tmp_path / name) as other:
        store = LayeredStore(LatentCache(), durable)
        store.put(FINGERPRINT, blocks(range(5)))
        keys = [key(i) for i in range(5)]
        with monkeypatch.context() as without:
            for call in ("get", "put", "numbers", "rows", "_table"):
                without.setattr(durable, call, None, raising=False)
            assert all(same(one, block(i)) for i, one in enumerate(store.get(FINGERPRINT, keys)))
        store.put(FINGERPRINT, blocks([5]))  # nothing has gone by that
        with monkeypatch.context() as without:
            without.setattr(durable, "numbers", None)
            assert all(same(one, block(i)) for i, one in enumerate(store.get(FINGERPRINT, keys)))
        other.delete(keys[:2])
        assert durable.numbers(keys).keys() == set(keys[2:])  # a store that is far away must be read to be seen
        assert all(same(one, block(i)) for i, one in enumerate(store.get(FINGERPRINT, keys)))
        assert other.numbers(keys).keys() == set(keys)


def test_what_is_asked_for_is_in_the_store_again_after_it_was_deleted_from_it(tmp_path: Path):
    with open_store(tmp_path) as durable:
        store = LayeredStore(LatentCache(), durable)
        store.put(FINGERPRINT, blocks([1, 2]))
        durable.delete([key(1)])
        assert all(same(block(i), found) for i, found in enumerate(store.get(FINGERPRINT, [key(1), key(2)]), start=1))
        assert set(durable.numbers([key(1), key(2)])) == {key(1), key(2)}

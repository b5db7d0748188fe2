from pathlib import Path

from kit import FINGERPRINT, block, blocks, key, same

from clara_model.store import open_store
from clara_model.store.layered import LayeredStore
from clara_model.store.memory import LatentCache


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


def test_what_another_store_has_brought_into_the_cache_is_kept_in_this_one_too(tmp_path: Path):
    cache = LatentCache()
    with open_store(tmp_path / "one") as one, open_store(tmp_path / "two") as two:
        LayeredStore(cache, one).put(FINGERPRINT, blocks([1, 2]))
        assert same(LayeredStore(cache, two).get(FINGERPRINT, [key(1), key(9)])[0], block(1))
        assert set(two.numbers([key(1), key(2)])) == {key(1)}


def test_what_was_made_in_batches_is_not_kept(tmp_path: Path):
    cache = LatentCache()
    cache.put(FINGERPRINT, blocks([1]))
    with open_store(tmp_path) as durable:
        assert LayeredStore(cache, durable).get(FINGERPRINT, [key(1)]) == [None]
        assert durable.stats().blocks == 0

from pathlib import Path

from kit import FINGERPRINT, blocks, key

from clara_model.store import open_store
from clara_model.store.opening import evict


def test_the_oldest_go_until_it_fits(tmp_path: Path):
    with open_store(tmp_path) as store:
        store.put(FINGERPRINT, blocks(range(200), slots=8, width=512))
        bound = store.stats().nbytes // 2
        assert evict(store, store.stats().nbytes) == 0
        assert 90 < evict(store, bound) < 150
        assert store.stats().nbytes <= bound
        assert store.numbers([key(0), key(199)]).keys() == {key(199)}
        assert evict(store, bound) == 0


def test_the_oldest_go_until_it_fits_where_they_are_smaller_than_the_rest(tmp_path: Path):
    with open_store(tmp_path) as store:
        store.put(FINGERPRINT, blocks(range(200), slots=1, width=8))
        store.put(FINGERPRINT, blocks(range(200, 300), slots=8, width=512))
        bound = store.stats().nbytes * 3 // 4
        assert 200 < evict(store, bound) < 250
        assert store.stats().nbytes <= bound

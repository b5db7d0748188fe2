import threading

import pytest
import torch

from clara_model.store.cache import LatentCache
from clara_model.store.protocol import ENTRY_BYTES, Block
from clara_model.windows import content_key


def block(value: float = 1.0, size: int = 256) -> Block:
    """A block of 1 KiB of floats where ``size`` is not given."""
    return Block(torch.full((1, size), value), 7)


ONE = 1024 + ENTRY_BYTES


def test_finds_what_was_put_and_nothing_else():
    cache = LatentCache()
    kept = block()
    cache.put("f", {"a": kept})
    assert cache.get("f", ["a", "b", "a"]) == [kept, None, kept]


def test_another_checkpoint_finds_nothing():
    cache = LatentCache()
    cache.put("f", {"a": block()})
    assert cache.get("g", ["a"]) == [None]


def test_the_one_used_longest_ago_goes_first():
    cache = LatentCache(3 * ONE)
    for key in "abc":
        cache.put("f", {key: block()})
    cache.get("f", ["a"])
    cache.put("f", {"d": block()})
    assert [found is not None for found in cache.get("f", list("abcd"))] == [True, False, True, True]


def test_bytes_stay_within_the_bound():
    cache = LatentCache(5 * ONE)
    for number in range(50):
        cache.put("f", {str(number % 17): block(number, 64 * (1 + number % 5))})
        assert cache.nbytes <= cache.max_bytes
    assert len(cache) > 1
    cache.clear()
    assert (cache.nbytes, len(cache)) == (0, 0)


def test_putting_again_replaces():
    cache = LatentCache()
    cache.put("f", {"a": block(1.0)})
    cache.put("f", {"a": block(2.0)})
    assert (len(cache), cache.nbytes) == (1, ONE)
    found = cache.get("f", ["a"])[0]
    assert found is not None and found.vector[0, 0] == 2.0


def test_a_block_larger_than_the_cache_is_not_kept_and_evicts_nothing():
    cache = LatentCache(2 * ONE)
    cache.put("f", {"a": block()})
    cache.put("f", {"b": block(size=4096)})
    assert [found is not None for found in cache.get("f", ["a", "b"])] == [True, False]


def test_nothing_is_kept_with_no_bytes():
    cache = LatentCache(0)
    cache.put("f", {"a": block()})
    assert len(cache) == 0


def test_shrinking_lets_go_at_once():
    cache = LatentCache(4 * ONE)
    cache.put("f", {key: block() for key in "abcd"})
    cache.resize(2 * ONE)
    assert len(cache) == 2


def test_negative_bound_is_refused():
    with pytest.raises(ValueError, match="cache_bytes must be at least 0, got -1"):
        LatentCache(-1)


def test_keys_tell_texts_apart():
    texts = ["", " ", "a", "A", "é", "e\u0301", "\ud800", "\ud801", "x" * 1000, "x" * 1001]
    assert len({content_key(text) for text in texts}) == len(texts)
    assert content_key("a") == content_key("a")


def test_many_threads():
    cache = LatentCache(8 * ONE)
    errors = []

    def work(seed: int) -> None:
        try:
            for step in range(300):
                key = str((seed * 7 + step) % 20)
                cache.put("f", {key: block(float(key))})
                for found in cache.get("f", [key]):
                    assert found is None or found.vector[0, 0] == float(key)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert cache.nbytes == ONE * len(cache) <= cache.max_bytes

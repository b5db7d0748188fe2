"""The coarse scan and exact rescoring against brute force, and the index through all that happens to a store."""

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from clara_model.modeling.ranking import cosine_scores, late_scores
from clara_model.search import index as coarse
from clara_model.search import scan
from clara_model.search.scan import distances, nearest
from clara_model.search.sketch import BITS, ROTATION, Directions, as_bytes, rotation, slot_bits, slot_signs
from clara_model.search.store_search import StoreSearch, index_folder
from clara_model.store import Block, StoredDocument, Window, open_store
from clara_model.windows import content_key

FINGERPRINT = "f"


def latents(count: int, seed: int = 0, slots: int = 4, width: int = 256) -> torch.Tensor:
    """Blocks with much in common, as those of a model have."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.randn(1, slots, width, generator=torch.Generator().manual_seed(99))
    return (common + torch.randn(count, slots, width, generator=draw)).bfloat16()


def near(vectors: torch.Tensor, share: float = 0.5, seed: int = 5) -> torch.Tensor:
    """Questions that lie near some blocks."""
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    return (share * vectors.float() + (1 - share) * 1.4 * noise).bfloat16()


def fill(store, vectors: torch.Tensor, first: int = 0) -> list[str]:
    keys = [content_key(str(first + i)) for i in range(len(vectors))]
    for start in range(0, len(keys), 1000):
        part = range(start, min(len(keys), start + 1000))
        store.put(FINGERPRINT, {keys[i]: Block(vectors[i], 5, f"text {first + i}") for i in part})
    return keys


def brute(question: torch.Tensor, vectors: torch.Tensor, k: int) -> list[int]:
    return cosine_scores(question[None], vectors)[0].topk(k).indices.tolist()


def test_bytes_by_hand():
    values = np.array([[254.0, 2.0, -1.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    whole, scales = as_bytes(values)
    assert whole.tolist() == [[127, 1, 0], [0, 0, 0]]
    assert scales[0] == 2.0


def test_a_small_block_loses_nothing_in_the_rotation():
    vectors = latents(50, slots=2, width=50)
    question = latents(1, seed=7, slots=2, width=50)
    flat = rotation(vectors) @ rotation(question)[0]
    assert flat == pytest.approx(cosine_scores(question, vectors)[0].numpy(), abs=1e-5)
    assert rotation(vectors).shape == (50, ROTATION)


def test_few_directions_say_all_where_blocks_differ_in_few():
    draw = torch.Generator().manual_seed(0)
    common, axes = torch.randn(1, 1024, generator=draw), torch.randn(30, 1024, generator=draw)
    vectors = (common + torch.randn(500, 30, generator=draw) @ axes * 0.1).view(500, 4, 256)
    directions = Directions.frombytes(Directions.learned(rotation(vectors[:200])).tobytes())
    question = rotation(latents(1, seed=3))[0]
    scores = directions.document(rotation(vectors)) @ directions.question(question)
    exact = rotation(vectors) @ question
    assert np.corrcoef(scores, exact)[0, 1] > 0.99
    assert directions.signs(directions.document(rotation(vectors[:3]))).shape == (3, BITS // 8)


def test_directions_are_the_same_again_and_leave_the_random_state_alone():
    before = torch.random.get_rng_state()
    one, two = (Directions.learned(rotation(latents(20))) for _ in range(2))
    assert one.tobytes() == two.tobytes()
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_scan_counts_differing_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scan, "_COUNTED_AT_ONCE", 300)
    monkeypatch.setattr(coarse, "_AT_ONCE", 700)
    vectors = latents(2500)
    with open_store(tmp_path / "s") as store:
        fill(store, vectors)
        index = coarse.CoarseIndex(tmp_path / "i", store.identity)
        reach = index.update(store)
    directions = index.directions(reach)
    question = directions.question(rotation(latents(1, seed=3))[0])
    projections = directions.document(rotation(vectors))
    expected = ((projections @ directions.mixture_SB > 0) != (question @ directions.mixture_SB > 0)).sum(axis=1)
    found = np.empty(2500, dtype=np.int32)
    distances(index.signs(reach), directions.signs(question[None]), found)
    assert np.abs(found.astype(int) - expected).max() <= 2  # a sum that is nearly 0 has either sign
    assert found.tolist()[::50] == expected.tolist()[::50]
    assert (index.numbers(reach) == np.arange(1, 2501)).all()


@pytest.mark.parametrize("count", [1, 10, 9000])
def test_finds_what_brute_force_finds(tmp_path: Path, count: int):
    vectors = latents(count)
    with open_store(tmp_path) as store:
        keys = fill(store, vectors)
        search = StoreSearch(store)
        for place in range(0, min(count, 200), 10):
            question = near(vectors[place])
            found = search.best(question, 20)
            if count == 10:  # all of them are scored
                assert [one.row.key for one in found] == [keys[i] for i in brute(question, vectors, 10)]
            assert found[0].row.key == keys[place]
            exact = cosine_scores(question[None], vectors[place][None])[0, 0].item()
            assert found[0].score == pytest.approx(exact, abs=1e-6)
            assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_finds_nearly_all_that_brute_force_finds_where_there_is_something_to_find(tmp_path: Path):
    """Blocks about 40 things, 25 each and near each other, among 9,000 others; a question about each thing."""
    things = latents(40, seed=1)
    about = (things.repeat_interleave(25, 0).float() + 0.8 * torch.randn(1000, 4, 256)).bfloat16()
    vectors = torch.cat([latents(8000, seed=2), about])
    with open_store(tmp_path) as store:
        keys = fill(store, vectors)
        search = StoreSearch(store)
        shares = []
        for thing in things:
            question = near(thing, 0.6)
            found = {one.row.key for one in search.best(question, 25)}
            shares.append(len({keys[i] for i in brute(question, vectors, 25)} & found) / 25)
    assert np.mean(shares) >= 0.99


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("faiss", [True, False])
def test_many_blocks_are_searched_by_several_threads_and_by_faiss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faiss: bool, filtered: bool
):
    """What counts as many is little here; both ways find what a scan by NumPy in one thread finds."""
    vectors = latents(6000)
    with open_store(tmp_path / "s") as store:
        fill(store, vectors)
        index = coarse.CoarseIndex(tmp_path / "i", store.identity)
        reach = index.update(store)
    numbers = np.arange(1, 6001)
    allowed = np.flatnonzero(numbers % 5) if filtered else None
    questions = [rotation(near(vectors[place])[None])[0] for place in range(0, 200, 11)]
    monkeypatch.setattr(scan, "FIRST", 2000)
    plain = [nearest(index, reach, one, 20, allowed).tolist() for one in questions]
    if faiss:
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(scan, "_faiss", lambda: None)
    monkeypatch.setattr(scan, "_ALONE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = [nearest(index, reach, one, 20, allowed).tolist() for one in questions]
    assert np.mean([len(set(one) & set(other)) / 20 for one, other in zip(found, plain, strict=True)]) > 0.99
    assert [one[0] for one in found] == [one[0] for one in plain]
    assert all(len(one) == 20 for one in found)
    if filtered:
        assert not any(number % 5 == 0 for one in found for number in one)


def test_an_empty_store(tmp_path: Path):
    with open_store(tmp_path) as store:
        assert StoreSearch(store).best(latents(1)[0], 5) == []


def test_what_is_added_deleted_and_replaced_is_seen(tmp_path: Path):
    vectors = latents(300)
    with open_store(tmp_path) as store:
        keys = fill(store, vectors[:200])
        search = StoreSearch(store)
        assert search.best(vectors[250], 1)[0].row.key != content_key("250")
        fill(store, vectors[200:], first=200)
        assert search.best(vectors[250], 1)[0].row.key == content_key("250")
        store.delete([keys[7]])
        assert keys[7] not in {one.row.key for one in search.best(vectors[7], 50)}
        store.put(FINGERPRINT, {keys[8]: Block(vectors[7], 5)})
        best = search.best(vectors[7], 50)
        assert [one.row.key for one in best].count(keys[8]) == 1
        assert best[0].row.key == keys[8]
        store.compact()
        assert search.best(vectors[9], 1)[0].row.key == keys[9]


def test_an_index_of_blocks_that_are_mostly_gone_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(coarse, "_AT_ONCE", 50)
    vectors = latents(300)
    with open_store(tmp_path) as store:
        keys = fill(store, vectors)
        index = coarse.CoarseIndex(tmp_path / "search", store.identity)
        assert index.update(store).count == 300
        store.delete(keys[20:])
        assert index.update(store).count == 20
        assert {path.name[0] for path in (tmp_path / "search").glob("*.bin")} == {"2"}
        assert StoreSearch(store).best(vectors[3], 1)[0].row.key == keys[3]


def test_metadata_filter(tmp_path: Path):
    vectors = latents(5000)
    with open_store(tmp_path) as store:
        keys = fill(store, vectors)
        windows = [Window(one, 0, 1) for one in keys]
        store.record([StoredDocument("a", tuple(windows[:50]), "d", {"file": "a"})])
        store.record([StoredDocument("b", tuple(windows[50:4950]), "d", {"file": "b"})])
        search = StoreSearch(store)
        found = search.best(vectors[100], 20, {"file": "a"})
        assert {one.row.key for one in found} <= set(keys[:50])
        expected = brute(vectors[100], vectors[:50], 20)
        assert [one.row.key for one in found] == [keys[i] for i in expected]
        assert search.best(vectors[100], 5, {"file": "b"})[0].row.key == keys[100]
        assert search.best(vectors[100], 5, {"file": "c"}) == []


def test_an_index_of_another_store_is_built_anew(tmp_path: Path):
    vectors = latents(20)
    with open_store(tmp_path / "one") as one, open_store(tmp_path / "two") as two:
        fill(one, vectors[:10])
        keys = fill(two, vectors[10:], first=10)
        coarse.CoarseIndex(tmp_path / "i", one.identity).update(one)
        index = coarse.CoarseIndex(tmp_path / "i", two.identity)
        numbers = nearest(index, index.update(two), rotation(vectors[15:16])[0], 3)
        assert two.rows(numbers.tolist())[0].key == keys[5]


def test_a_damaged_index_says_so(tmp_path: Path):
    with open_store(tmp_path) as store:
        fill(store, latents(10))
        StoreSearch(store).best(latents(1)[0], 3)
        next((tmp_path / "search").glob("*-bytes.bin")).write_bytes(b"12")
        with pytest.raises(ValueError, match="is too short"):
            StoreSearch(store).best(latents(1)[0], 3)


def test_a_damaged_block_is_not_found(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    vectors = latents(10)
    with open_store(tmp_path) as store:
        keys = fill(store, vectors)
        search = StoreSearch(store)
        assert search.best(vectors[3], 1)[0].row.key == keys[3]
    data = bytearray((tmp_path / "data-1.bin").read_bytes())
    data[3 * 2048 + 5] ^= 1
    (tmp_path / "data-1.bin").write_bytes(data)
    with open_store(tmp_path) as store, caplog.at_level(logging.WARNING):
        assert keys[3] not in {one.row.key for one in StoreSearch(store).best(vectors[3], 10)}
        assert keys[3] in caplog.text


def test_threads_search_while_others_write(tmp_path: Path):
    vectors = latents(2000)
    errors: list[BaseException] = []
    with open_store(tmp_path) as store:
        keys = fill(store, vectors[:100])
        search = StoreSearch(store)

        def look(seed: int) -> None:
            try:
                for place in range(seed, 100, 10):
                    assert search.best(vectors[place], 1)[0].row.key == keys[place]
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=look, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for first in range(100, 2000, 190):
            fill(store, vectors[first : first + 190], first=first)
        for thread in threads:
            thread.join()
        assert errors == []
        assert search.best(vectors[1999], 1)[0].row.key == content_key("1999")


def test_the_index_lies_beside_the_store(tmp_path: Path):
    with open_store(tmp_path / "s") as store:
        assert index_folder(store) == tmp_path / "s" / "search"


# -- late interaction: slots against slots ---------------------------------------------------------------------------


def words(count: int, width: int = 96, seed: int = 30) -> torch.Tensor:
    """Directions that slots may have, as a vocabulary's tokens."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def of_words(count: int, slots: int, seed: int, vocabulary: torch.Tensor) -> torch.Tensor:
    """Blocks whose slots are words with a little noise."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(vocabulary), (count, slots), generator=draw)
    noise = torch.randn(count, slots, vocabulary.shape[1], generator=draw)
    return (vocabulary[chosen] + 0.3 * noise).bfloat16()


def question_of(block_MD: torch.Tensor, asked: int, seed: int) -> torch.Tensor:
    """A question about some of a block's slots, of different weight; the other slots are empty."""
    draw = torch.Generator().manual_seed(seed)
    chosen = block_MD[torch.randperm(len(block_MD), generator=draw)[:asked]].float()
    noisy = chosen / chosen.norm(dim=-1, keepdim=True) + 0.03 * torch.randn(chosen.shape, generator=draw)
    made = torch.zeros(block_MD.shape)
    made[:asked] = noisy * torch.rand(asked, 1, generator=draw).add(0.2)
    return made


def test_slot_signs_tell_the_cosine():
    slots = words(400, width=576)[:, None]
    signs = slot_signs(slots.bfloat16())
    assert signs.shape == (400, 1, BITS // 8) and signs.dtype == np.uint8
    near_by = slots + 0.8 * words(400, width=576, seed=31)[:, None]
    differing = np.bitwise_count(signs ^ slot_signs(near_by)).sum(axis=(1, 2))
    told = np.cos(np.pi * differing / slot_bits(576))
    real = torch.nn.functional.cosine_similarity(slots, near_by, dim=-1)[:, 0].numpy()
    assert np.abs(told - real).mean() < 0.05
    assert [slot_bits(size) for size in (32, 96, 576, 4096)] == [32, 128, 512, 512]
    assert slot_signs(torch.empty(0, 4, 96)).shape == (0, 4, 16)
    assert slot_signs(torch.randn(2, 3, 20)).shape == (2, 3, 8)


@pytest.mark.parametrize("faiss", [True, False])
def test_late_interaction_finds_what_comparing_with_every_slot_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faiss: bool
):
    if not faiss:
        monkeypatch.setattr(scan, "_faiss", lambda: None)
    vectors = of_words(3000, 12, 1, words(500))
    found, best = [], []
    with open_store(tmp_path) as store:
        keys = fill(store, vectors)
        search = StoreSearch(store, "late")
        for place in range(0, 3000, 150):
            question = question_of(vectors[place], 6, place)
            scores = late_scores(question[None], vectors)[0]
            results = search.best(question, 5)
            assert results[0].row.key == keys[int(scores.argmax())] == keys[place]
            assert results[0].score == pytest.approx(scores.max().item(), abs=1e-6)
            found.append({one.row.key for one in results})
            best.append({keys[i] for i in scores.topk(5).indices.tolist()})
    assert np.mean([len(one & other) / 5 for one, other in zip(found, best, strict=True)]) >= 0.95


def test_late_interaction_with_a_filter_more_blocks_and_an_empty_question(tmp_path: Path):
    vectors = of_words(600, 12, 2, words(500))
    with open_store(tmp_path) as store:
        keys = fill(store, vectors[:500])
        for place in (3, 4):
            store.record([StoredDocument(f"d{place}", (Window(keys[place], 0, 5),), "d", {"file": f"{place}.txt"})])
        search = StoreSearch(store, "late")
        question = question_of(vectors[7], 6, 7)
        assert search.best(question, 1)[0].row.key == keys[7]
        assert [one.row.key for one in search.best(question, 5, {"file": "3.txt"})] == [keys[3]]
        keys += fill(store, vectors[500:], first=500)
        late = question_of(vectors[550], 6, 550)
        assert search.best(late, 1)[0].row.key == keys[550]
        assert [one.score for one in search.best(torch.zeros_like(late), 3)] == [0.0, 0.0, 0.0]
        assert StoreSearch(store, "late").best(late, 1)[0].row.key == keys[550]  # the index was kept


def test_late_interaction_in_several_threads_is_that_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    vectors = of_words(800, 12, 3, words(500))
    with open_store(tmp_path) as store:
        fill(store, vectors)
        question = question_of(vectors[70], 6, 70)
        one = [(found.row.key, found.score) for found in StoreSearch(store, "late").best(question, 20)]
        monkeypatch.setattr(scan, "_ALONE", 100)
        monkeypatch.setattr(scan, "_SLOTS_AT_ONCE", 240)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        assert [(found.row.key, found.score) for found in StoreSearch(store, "late").best(question, 20)] == one

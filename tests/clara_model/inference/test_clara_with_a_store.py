"""`Clara` with a store that outlives it: nothing that it holds is compressed again, and search in it."""

import threading
from pathlib import Path

import pytest
import torch
from small_model import QUESTIONS, TEXTS

from clara_model import Clara, ClaraError, ClaraModel
from clara_model.store import Block, StoredDocument, Window, open_store
from clara_model.windows import content_key


@pytest.fixture
def passes(loaded: ClaraModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles of the passes through the model, as they come."""
    seen: list[str] = []
    encode = ClaraModel.encode

    def counted(self: ClaraModel, role: str, *args: object, **options: object):
        seen.append(role)
        return encode(self, role, *args, **options)

    monkeypatch.setattr(ClaraModel, "encode", counted)
    return seen


def test_a_second_clara_compresses_nothing_that_the_store_holds(loaded: ClaraModel, tmp_path: Path, passes: list[str]):
    with Clara(loaded, store=tmp_path) as one:
        first = one.compress(TEXTS)
    assert "compressor" in passes
    passes.clear()
    with Clara(loaded, store=str(tmp_path)) as two:
        again = two.compress(TEXTS)
        answer = two.answer(QUESTIONS[0], TEXTS)
    assert "compressor" not in passes
    assert torch.equal(first.vectors, again.vectors)
    assert (first.lengths, answer.timings.compress) == (again.lengths, 0)


def test_only_what_is_missing_is_compressed(loaded: ClaraModel, tmp_path: Path):
    with Clara(loaded, store=tmp_path) as clara:
        clara.compress(TEXTS[:2])
    with Clara(loaded, store=tmp_path) as clara:
        clara.compress(TEXTS)
    with open_store(tmp_path) as store:
        assert store.stats().blocks == len(TEXTS)
        found = store.get(loaded.fingerprint, [content_key(text) for text in TEXTS])
        assert [block.text for block in found if block] == TEXTS


def test_the_cache_in_memory_stands_in_front(loaded: ClaraModel, tmp_path: Path, passes: list[str]):
    with Clara(loaded, store=tmp_path) as clara, open_store(tmp_path) as store:
        clara.compress(TEXTS)
        store.delete([content_key(text) for text in TEXTS])
        passes.clear()
        clara.compress(TEXTS)
        assert passes == []


def test_a_store_gets_what_the_process_has_made_without_it(tiny_clara_folder: Path, tmp_path: Path):
    how = {"device": "cpu", "dtype": "float32"}
    with Clara.load(tiny_clara_folder, **how) as without, Clara.load(tiny_clara_folder, store=tmp_path, **how) as clara:
        made = without.compress(TEXTS)
        assert torch.equal(clara.compress(TEXTS).vectors, made.vectors)
        assert clara.shared.loaded is without.shared.loaded
    with open_store(tmp_path) as store:
        assert store.stats().blocks == len(TEXTS)


def test_a_store_does_not_wait_for_what_a_batch_without_it_makes(loaded: ClaraModel, tmp_path: Path):
    with Clara(loaded, store=tmp_path) as clara:
        with clara.shared.scheduler.making((clara.fingerprint, content_key(text)) for text in TEXTS):
            made = threading.Thread(target=clara.compress, args=(TEXTS,), daemon=True)
            made.start()
            made.join(60)
            assert not made.is_alive()
    with open_store(tmp_path) as store:
        assert store.stats().blocks == len(TEXTS)


def test_a_store_that_was_handed_over_stays_open(loaded: ClaraModel, tmp_path: Path):
    with open_store(tmp_path) as store:
        with Clara(loaded, store=store) as clara:
            clara.compress(TEXTS)
        assert store.stats().blocks == len(TEXTS)


def test_the_store_of_another_checkpoint_is_refused_at_once(loaded: ClaraModel, other: ClaraModel, tmp_path: Path):
    with Clara(loaded, store=tmp_path) as clara:
        clara.compress(TEXTS)
    with pytest.raises(
        ClaraError, match=rf"checkpoint {loaded.fingerprint} and this is checkpoint {other.fingerprint}"
    ):
        Clara(other, store=tmp_path)


def test_the_store_of_the_same_checkpoint_in_another_dtype_is_refused_by_that_word(tmp_path: Path):
    with Clara.load("clara-tiny", store=tmp_path, dtype="float32") as clara:
        clara.compress(TEXTS)
    with pytest.raises(ClaraError, match="for each dtype"):
        Clara.load("clara-tiny", store=tmp_path, dtype="bfloat16")


def test_the_store_is_never_asked_in_the_models_thread(loaded: ClaraModel, tmp_path: Path):
    with open_store(tmp_path) as store, Clara(loaded, store=store, batch_size=2) as clara:
        calls: list[tuple[str, str]] = []

        def watched(name: str, call):
            def inner(*args: object):
                calls.append((name, threading.current_thread().name))
                return call(*args)

            return inner

        store.get, store.put = watched("get", store.get), watched("put", store.put)  # type: ignore[method-assign]
        clara.answer(QUESTIONS[0], TEXTS)
        assert [name for name, _ in calls].count("put") >= 3
        assert {thread for _, thread in calls} == {threading.current_thread().name}


def test_search_ranks_as_ranking_does(loaded: ClaraModel, tmp_path: Path):
    with Clara(loaded, store=tmp_path) as clara:
        clara.compress(TEXTS)
        for question in QUESTIONS:
            ranked = clara.rank(question, TEXTS)
            results = clara.search(question, len(TEXTS))
            assert [one.text for one in results] == [TEXTS[one.index] for one in ranked]
            assert [one.score for one in results] == pytest.approx([one.score for one in ranked], abs=1e-6)
            assert results.latents is not None
            answer = clara.answer(question, results.latents, rerank=False)
            assert answer.text == clara.answer(question, TEXTS).text
            assert results[0].document is None
            assert len(results[1:3]) == 2
            assert results.timings.query > 0


def test_search_knows_documents_and_filters(loaded: ClaraModel, tmp_path: Path):
    keys = [content_key(text) for text in TEXTS]
    with Clara(loaded, store=tmp_path) as clara:
        clara.compress(TEXTS)
        with open_store(tmp_path) as store:
            store.record(
                [
                    StoredDocument("a", (Window(keys[0], 0, 5), Window(keys[1], 6, 9)), "d", {"year": 1962}),
                    StoredDocument("b", (Window(keys[1], 3, 7), Window(keys[2], 8, 9)), "d", {"year": 1963}),
                ]
            )
        results = clara.search(QUESTIONS[0], 5, where={"year": 1963})
        assert {(one.document, one.window, one.start, one.end) for one in results} == {("b", 0, 3, 7), ("b", 1, 8, 9)}
        assert results[0].metadata == {"year": 1963}
        found = {one.text: one.document for one in clara.search(QUESTIONS[0], 5)}
        assert (found[TEXTS[1]], found[TEXTS[2]], found[TEXTS[4]]) == ("a", "b", None)
        with pytest.raises(TypeError, match="where"):
            clara.search(QUESTIONS[0], where={"year": object()})


def test_search_of_nothing(loaded: ClaraModel, tmp_path: Path):
    with Clara(loaded, store=tmp_path) as clara:
        results = clara.search(QUESTIONS[0])
        assert (list(results), results.latents) == ([], None)


def test_what_search_cannot_do(loaded: ClaraModel, tmp_path: Path):
    with Clara(loaded) as clara, pytest.raises(ClaraError, match="no store to search in"):
        clara.search(QUESTIONS[0])
    with Clara(loaded, store=tmp_path) as clara:
        with pytest.raises(ValueError, match="blank"):
            clara.search(" ")
        with pytest.raises(ValueError, match="top_k must be at least 1"):
            clara.search(QUESTIONS[0], 0)
    with pytest.raises(ClaraError, match="closed"):
        clara.search(QUESTIONS[0])


def test_a_damaged_block_is_made_anew(loaded: ClaraModel, tmp_path: Path, passes: list[str]):
    with Clara(loaded, store=tmp_path) as clara:
        first = clara.compress(TEXTS)
    data = bytearray((tmp_path / "data-1.bin").read_bytes())
    data[10] ^= 4
    (tmp_path / "data-1.bin").write_bytes(data)
    passes.clear()
    with Clara(loaded, store=tmp_path) as clara:
        assert torch.equal(clara.compress(TEXTS).vectors, first.vectors)
    assert passes == ["compressor"]
    with open_store(tmp_path) as store:
        assert store.verify() == []


def test_a_store_kept_in_fewer_bits_gives_the_models_own_type(loaded: ClaraModel, tmp_path: Path):
    with open_store(tmp_path, encoding="int8") as store:
        with Clara(loaded, store=store, cache_bytes=0) as clara:
            exact = clara.compress(TEXTS).vectors
            kept = clara.compress(TEXTS).vectors
        assert kept.dtype == exact.dtype
        assert 0 < (kept - exact).abs().max() < 0.02 * exact.abs().max()
        assert isinstance(store.get(loaded.fingerprint, [content_key(TEXTS[0])])[0], Block)

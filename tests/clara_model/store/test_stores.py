"""What every store that lasts does, whatever it keeps its rows in."""

import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from kit import FINGERPRINT, OTHER, block, blocks, key, same

from clara_model.errors import ClaraError
from clara_model.store import DurableStore, StoredDocument, Window, copy_store, open_store
from clara_model.store.filters import DOCUMENT
from clara_model.store.protocol import MissingBlocks

Reopen = Callable[[], DurableStore]


def document(name: str, windows: list, **metadata: object) -> StoredDocument:
    placed = tuple(Window(key(one), 10 * number, 10 * number + 9) for number, one in enumerate(windows))
    return StoredDocument(name, placed, f"digest of {windows}", metadata)


def test_what_was_put_is_there_and_nothing_else(store: DurableStore):
    kept = blocks(range(600))
    store.put(FINGERPRINT, kept)
    found = store.get(FINGERPRINT, [*kept, key("other"), key(3)])
    assert all(same(one, other) for one, other in zip(found, kept.values(), strict=False))
    assert found[600] is None
    assert same(found[601], block(3))


def test_an_empty_store_finds_nothing(store: DurableStore):
    assert store.get(FINGERPRINT, [key(1)]) == [None]
    assert store.get(FINGERPRINT, []) == []
    assert (store.fingerprint, list(store.iterate()), list(store.documents())) == (None, [], [])
    assert (store.delete([key(1)]), store.forget(["a"]), store.find(), store.verify()) == (0, 0, [], [])


def test_another_open_sees_it(store: DurableStore, reopened: Reopen):
    with reopened() as other:
        store.put(FINGERPRINT, blocks([1]))
        assert same(other.get(FINGERPRINT, [key(1)])[0], block(1))
        assert (other.fingerprint, other.identity) == (FINGERPRINT, store.identity)


def test_another_process_opens_the_same(store: DurableStore):
    store.put(FINGERPRINT, blocks([1]))
    with pickle.loads(pickle.dumps(store)) as other:
        assert same(other.get(FINGERPRINT, [key(1)])[0], block(1))


def test_comes_back_to_the_bit_by_default(store: DurableStore):
    kept = {key(dtype): block(dtype, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
    store.put(FINGERPRINT, kept)
    assert all(map(same, store.get(FINGERPRINT, list(kept)), kept.values()))


def test_another_checkpoint_is_refused_with_both_fingerprints(store: DurableStore, reopened: Reopen):
    store.put(FINGERPRINT, blocks([1]))
    with reopened() as other:
        for call in (lambda: other.get(OTHER, [key(1)]), lambda: other.put(OTHER, blocks([2]))):
            with pytest.raises(ClaraError, match=rf"checkpoint {FINGERPRINT} .* checkpoint {OTHER}"):
                call()
    assert store.stats().blocks == 1


def test_putting_again_replaces_under_a_new_number(store: DurableStore):
    store.put(FINGERPRINT, blocks([1, 2]))
    before = store.numbers([key(1), key(2)])
    store.put(FINGERPRINT, {key(1): block("new")})
    assert store.numbers([key(1)])[key(1)] > max(before.values())
    assert same(store.get(FINGERPRINT, [key(1)])[0], block("new"))
    assert store.stats().blocks == 2


def test_delete(store: DurableStore):
    store.put(FINGERPRINT, blocks(range(5)))
    assert store.delete([key(1), key(3), key("other")]) == 2
    assert [one is not None for one in store.get(FINGERPRINT, [key(i) for i in range(5)])] == [1, 0, 1, 0, 1]


def test_iterates_in_the_order_of_numbers_that_are_never_given_twice(store: DurableStore):
    store.put(FINGERPRINT, blocks(range(300)))
    rows = list(store.iterate())
    assert [row.key for row in rows] == [key(i) for i in range(300)]
    assert all(same(row.block, block(i)) for i, row in enumerate(rows))
    store.delete([rows[-1].key])
    store.put(FINGERPRINT, blocks(["later"]))
    after = list(store.iterate(rows[-2].number))
    assert [row.key for row in after] == [key("later")]
    assert after[0].number > rows[-1].number


def test_rows_by_number(store: DurableStore):
    store.put(FINGERPRINT, blocks(range(5)))
    numbers = store.numbers([key(i) for i in (4, 0, "other")])
    assert set(numbers) == {key(4), key(0)}
    found = store.rows([numbers[key(4)], 99999, numbers[key(0)]])
    assert [row.key for row in found] == [key(4), key(0)]


def test_documents_are_found_by_id_and_metadata(store: DurableStore):
    store.put(FINGERPRINT, blocks(range(4)))
    store.record([document("a", [0, 1], file="x.txt", year=1962), document("b", [1, 2], file="y.txt", draft=True)])
    store.record([document("c", [3], file="z 'q\" $.txt", year=None)])
    assert [(one.key, one.number, one.start, one.end) for one in store.find("a")] == [
        (key(0), 0, 0, 9),
        (key(1), 1, 10, 19),
    ]

    def ids(**where: object) -> list[str]:
        return list(dict.fromkeys(one.document for one in store.find(where=where)))

    assert ids() == ["a", "b", "c"]
    assert ids(file="x.txt") == ["a"]
    assert ids(file=["x.txt", "y.txt"]) == ["a", "b"]
    assert ids(file=["x.txt", "y.txt"], year=1962) == ["a"]
    assert ids(draft=True) == ["b"]
    assert ids(file="z 'q\" $.txt") == ["c"]
    assert ids(file=[]) == ids(file="x", other=1) == []
    assert store.find("a", {"year": 1963}) == []
    assert store.find("a")[0].metadata == {"file": "x.txt", "year": 1962}
    assert [(one.document, one.number) for one in store.places([key(1), key(3)])] == [("a", 1), ("b", 0), ("c", 0)]
    assert store.digests()["a"] == "digest of [0, 1]"
    assert [one.id for one in store.documents()] == ["a", "b", "c"]


FILTERS: list[tuple[dict, str]] = [
    ({"year": {"$gt": 1960}}, "b c"),
    ({"year": {"$gte": 1960, "$lt": 1970.5}}, "a b"),
    ({"year": {"$lt": "1970"}}, "d"),
    ({"year": {"$ne": 1960}}, "b c d e"),
    ({"year": {"$eq": None}}, "e"),
    ({"year": {"$in": [1960, "1944"]}}, "a d"),
    ({"year": {"$nin": [1960, "1944", None]}}, "b c"),
    ({"tags": {"$contains": "x"}}, "a b c"),
    ({"tags": {"$contains": "y"}}, "c"),
    ({"$or": [{"year": 1960}, {"tags": {"$contains": "y"}}]}, "a c"),
    ({"$and": [{"year": {"$gt": 1900}}, {"$not": {"tags": {"$contains": "y"}}}]}, "a b"),
    ({"$not": {"$or": [{"year": 1960}, {"year": 1970}]}}, "c d e"),
    ({"year": list(range(1200, 2400))}, "a b"),
    ({"year": {"$nin": [*range(1200, 2400), None]}}, "c d"),
    ({"$or": [{"year": year} for year in range(1200, 2400)]}, "a b"),
    ({"größe": 3}, "a"),
    ({"größe": {"$ne": 3}}, "b c d e"),
    ({"x\\y": 4, "tab\tname": "ü", "new\nline": True}, "b"),
    ({"😀": "emoji", "it's": 1}, "c"),
    ({"tags": '["y","x"]'}, ""),
    ({"tags": ['["y","x"]', "x"]}, "b"),
    ({"tags": {"$eq": ["y", "x"]}}, "c"),
    ({"tags": {"$in": [["x"], None]}}, "a d e"),
    ({"tab\tname": {"$holds": "Ü"}}, "b"),
    ({"big": 2**64 - 1}, "a"),
    ({"big": 2**64}, ""),
    ({"big": {"$gt": 2**63}}, "a"),
    ({"big": {"$lt": -(2**70)}}, ""),
    ({"nul": "x\0y"}, "a"),
    ({"nul": "\ud800"}, ""),
    ({"year": float("inf")}, ""),
    ({"year": {"$lt": float("inf")}}, "a b c"),
    ({"when": {"$gte": datetime(2024, 1, 2)}}, "a b"),
    ({"when": {"$lt": datetime(2024, 1, 2, 10, tzinfo=UTC)}}, "a"),
    ({"when": datetime(2024, 1, 2)}, "a"),
    ({DOCUMENT: ["b", "d"]}, "b d"),
    ({DOCUMENT: {"$gt": "c"}, "year": None}, "e"),
    ({"$and": []}, "a b c d e"),
    ({"$or": []}, ""),
]


def test_filters(store: DurableStore):
    store.put(FINGERPRINT, blocks(range(5)))
    years: list = [1960, 1970, 2001.5, "1944", None]
    tags: list = [["x"], "x", ["y", "x"], None, None]
    more: list[dict] = [
        {"größe": 3, "big": 2**64 - 1, "nul": "x\0y", "when": "2024-01-02"},
        {"größe": 2, "x\\y": 4, "tab\tname": "ü", "new\nline": True, "when": "2024-01-02T12:30:00+02:00"},
        {"😀": "emoji", "it's": 1, "when": "tomorrow"},
        {},
        {},
    ]
    store.record([document(one, [i], year=years[i], tags=tags[i], **more[i]) for i, one in enumerate("abcde")])
    for where, expected in FILTERS:
        keys = [key("abcde".index(one)) for one in expected.split()]
        assert [row.key for row in store.rows(store.matching(where))] == keys, where
        assert " ".join(one.document for one in store.find(where=where)) == expected, where


def test_filters_that_make_no_sense(store: DurableStore):
    store.put(FINGERPRINT, blocks([1]))
    nan = float("nan")
    for where in (
        *({"a": {}}, {"a": [[[]]]}, {"a": {"$holds": 1}}, {1: "a"}, {'a"b': 1}, {"a": {"$gt": None}}),
        *({"a": {"$gt": True}}, {"a": {"$like": 1}}, {"a": nan}, {"a": {"$gt": nan}}, {"a": b"x"}),
        *({"$nor": [{"a": 1}]}, {"$gt": 5}, {"a": {"$in": 1}}, {"$or": {}}, {"$not": 3}, {"$and": ["a"]}),
        {"a": {"$contains": []}},
    ):
        with pytest.raises(TypeError, match="where"):
            store.find(where=where)


def test_filters_in_one_another(store: DurableStore):
    store.put(FINGERPRINT, blocks(range(2)))
    store.record([document("a", [0], n=5), document("b", [1], n=6)])
    where: dict = {"n": 5}
    for _ in range(300):
        where = {"$not": where}
    assert [one.document for one in store.find(where=where)] == ["a"]
    for depth in (40, 3000):
        where = {"n": 5}
        for _ in range(depth):
            where = {"$and": [where, {"n": 5}]}
        with pytest.raises(TypeError, match="nested too deeply"):
            store.find(where=where)


def test_metadata_that_json_cannot_hold(store: DurableStore):
    for metadata in ({1: 2}, {"a": object()}, {"a": float("nan")}):
        with pytest.raises(TypeError, match="metadata"):
            store.record([StoredDocument("a", (), "d", metadata)])
    assert store.digests() == {}


def test_a_changed_document_takes_its_old_blocks_with_it(store: DurableStore):
    store.put(FINGERPRINT, blocks(range(5)))
    store.record([document("a", [0, 1, 2]), document("b", [2, 3])])
    store.record([document("a", [1, 4])])
    assert [one.key for one in store.find("a")] == [key(1), key(4)]
    assert [one is not None for one in store.get(FINGERPRINT, [key(i) for i in range(5)])] == [0, 1, 1, 1, 1]
    assert store.forget(["b", "not there"]) == 1
    assert [one is not None for one in store.get(FINGERPRINT, [key(i) for i in range(5)])] == [0, 1, 0, 0, 1]
    assert store.verify() == []


def test_verify_names_what_is_missing(store: DurableStore):
    store.put(FINGERPRINT, blocks(range(2)))
    store.record([document("a", [0, 1])])
    store.delete([key(1)])
    assert [(one.where, one.what) for one in store.verify()] == [("a", "the latents of its window 1 are not there")]


def test_a_document_whose_block_is_not_there_is_refused(store: DurableStore):
    store.put(FINGERPRINT, blocks([0]))
    with pytest.raises(
        MissingBlocks, match=f"document 'a' has the block {key(1)}, which is not in the store"
    ) as caught:
        store.record([document("b", [0]), document("a", [0, 1])])
    assert caught.value.keys == {key(1)}
    assert store.digests() == {}


def test_the_generation_moves_when_blocks_go_and_not_when_they_come(store: DurableStore, reopened: Reopen):
    store.put(FINGERPRINT, blocks(range(3)))
    start = store.generation
    store.put(FINGERPRINT, blocks([3]))
    assert store.generation == start
    seen = [start]
    with reopened() as other:
        for change in (
            lambda: store.delete([key(0)]),
            lambda: store.put(FINGERPRINT, blocks([1])),
            lambda: other.delete([key(2)]),
            lambda: other.clear(),
        ):
            change()
            store.numbers([key(1)])  # a store that is far away sees what others have done when it is read
            seen.append(store.generation)
    assert len(set(seen)) == 5


def test_all_numbers(store: DurableStore):
    assert (store.all_numbers(), store.last_number) == ([], 0)
    store.put(FINGERPRINT, blocks(range(5)))
    numbers = store.numbers([key(i) for i in range(5)])
    assert store.all_numbers() == sorted(numbers.values())
    store.delete([key(4)])
    assert numbers[key(4)] <= store.last_number
    assert store.all_numbers() == [numbers[key(i)] for i in range(4)]


def test_an_emptied_store_is_another_checkpoints(store: DurableStore, reopened: Reopen):
    store.put(FINGERPRINT, blocks(range(5)))
    store.record([document("a", [0, 1])])
    with reopened() as other:
        held = other.get(FINGERPRINT, [key(0)])[0]
        store.clear()
        assert (store.stats().blocks, store.stats().documents, store.fingerprint) == (0, 0, None)
        store.put(OTHER, blocks(range(5, 10)))
        assert held is not None and same(held, block(0))  # what is held does not change
        for call in (lambda: other.get(FINGERPRINT, [key(5)]), lambda: other.put(FINGERPRINT, blocks([1]))):
            with pytest.raises(ClaraError, match=rf"checkpoint {OTHER} .* checkpoint {FINGERPRINT}"):
                call()
        assert same(other.get(OTHER, [key(5)])[0], block(5))
    assert store.verify() == []


def test_what_another_has_put_into_an_empty_store_is_not_damaged(store: DurableStore, reopened: Reopen):
    with reopened() as other:
        other.put(FINGERPRINT, blocks(range(3)))
        other.record([document("a", [0, 1])])
    assert store.verify(["a"], mend=True) == [] and store.stats().blocks == 3
    store.clear()
    with reopened() as other:
        other.put(OTHER, blocks(range(4)))
        other.record([document("b", [3])])
    assert store.verify(["b"], mend=True) == store.verify(mend=True) == [] and store.stats().blocks == 4


def test_stats_and_compact(store: DurableStore):
    store.put(FINGERPRINT, blocks(range(400), slots=16, width=256))
    store.record([document("a", [0, 1])])
    before = store.stats()
    assert (before.blocks, before.documents, before.fingerprint, before.keeps_text) == (400, 1, FINGERPRINT, True)
    assert before.nbytes > 400 * 16 * 256 * 2
    store.delete([key(i) for i in range(100, 400)])
    store.compact()
    after = store.stats()
    assert after.blocks == 100
    assert after.nbytes < before.nbytes / 2
    assert all(
        same(one, block(i, 16, 256)) for i, one in enumerate(store.get(FINGERPRINT, [key(i) for i in range(100)]))
    )


def test_texts_are_kept_or_not(place: Path | str):
    with open_store(place, keep_text=False) as store:
        store.put(FINGERPRINT, blocks([1]))
        found = store.get(FINGERPRINT, [key(1)])[0]
        assert found is not None
        assert (found.text, found.length) == (None, 1)
        assert not store.stats().keeps_text
    with pytest.raises(ClaraError, match="keep_text False and True was asked for"):
        open_store(place, keep_text=True)


@pytest.mark.parametrize(("encoding", "error"), [("float16", 2e-3), ("int8", 0.02), ("int4", 0.35)])
def test_copies_into_another_element_type(store: DurableStore, tmp_path: Path, encoding: str, error: float):
    store.put(FINGERPRINT, blocks(range(300)))
    store.record([document("a", [0, 1], file="x"), document("b", [299])])
    with open_store(tmp_path / "smaller", encoding=encoding) as target:
        assert copy_store(store, target) == 300
        for i, one in enumerate(target.get(FINGERPRINT, [key(i) for i in range(300)])):
            assert one is not None
            assert (one.vector.dtype, one.text) == (torch.bfloat16, f"text of {i}")
            assert (one.vector.float() - block(i).vector.float()).abs().max() <= error
        assert list(target.documents()) == list(store.documents())
    with pytest.raises(ClaraError, match=f"encoding {encoding} and exact was asked for"):
        open_store(tmp_path / "smaller", encoding="exact")


def test_latents_that_are_not_finite_are_refused_and_nothing_is_kept(store: DurableStore):
    bad = block(2)
    bad.vector[1, 3] = float("nan")
    with pytest.raises(ClaraError, match="not finite"):
        store.put(FINGERPRINT, {key(1): block(1), key(2): bad})
    assert store.stats().blocks == 0


def test_strange_texts_and_ids(store: DurableStore):
    texts = ["", "\x00", "lone \ud800 surrogate", "é\u0301", "'; DROP TABLE blocks; --"]
    for name in texts:
        kept = block(repr(name))
        store.put(FINGERPRINT, {key(repr(name)): type(kept)(kept.vector, 1, name)})
    found = store.get(FINGERPRINT, [key(repr(name)) for name in texts])
    assert [one.text for one in found if one] == ["", "\x00", "lone ? surrogate", "é\u0301", "'; DROP TABLE blocks; --"]
    names = ["a'b", 'c"d', "ü/ö.txt", " "]
    store.record([document(name, [repr("")], title=name) for name in names])
    assert {one.document for one in store.find(where={"title": names})} == set(names)


def test_many_threads(store: DurableStore):
    errors = []

    def work(seed: int) -> None:
        try:
            for step in range(10):
                name = (seed * 7 + step) % 20
                store.put(FINGERPRINT, blocks([name]))
                assert same(store.get(FINGERPRINT, [key(name)])[0], block(name))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.stats().blocks == 20


def test_closed(store: DurableStore):
    store.put(FINGERPRINT, blocks([1]))
    store.close()
    store.close()
    with pytest.raises(ClaraError, match="closed"):
        store.get(FINGERPRINT, [key(1)])

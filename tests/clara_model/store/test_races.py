"""Two that change one store at once, in a forced order: neither loses what the other was told is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kit import FINGERPRINT, block, blocks, key, same

from clara_model.search.index import CoarseIndex
from clara_model.store import DurableStore, StoredDocument, Window, open_store
from clara_model.store.lance import LanceStore
from clara_model.store.sqlite import segments
from clara_model.store.sqlite.store import SQLiteStore

Reopen = Callable[[], DurableStore]


def document(name: str, window: object) -> StoredDocument:
    return StoredDocument(name, (Window(key(window), 0, 1),), f"digest of {window}")


def all_there(store: DurableStore, names: range) -> bool:
    return all(
        same(one, block(name)) for name, one in zip(names, store.get(FINGERPRINT, [key(n) for n in names]), strict=True)
    )


def test_a_compaction_that_is_held_up_deletes_nothing_of_one_that_overtakes_it(tmp_path: Path, monkeypatch):
    with open_store(tmp_path) as store, open_store(tmp_path) as other:
        assert isinstance(store, SQLiteStore)
        store.put(FINGERPRINT, blocks(range(60)))
        store.delete([key(name) for name in range(10)])
        real = store._segments.remove

        def late(numbers):  # the other's whole work falls between the commit and the removal of files
            monkeypatch.setattr(store._segments, "remove", real)
            other.put(FINGERPRINT, blocks(range(60, 70)))
            other.delete([key(60)])
            other.compact()
            real(numbers)

        monkeypatch.setattr(store._segments, "remove", late)
        store.compact()
        with open_store(tmp_path) as third:
            assert all_there(third, range(10, 60))
            assert all_there(third, range(61, 70))
            assert third.verify() == []
        assert len(list(tmp_path.glob("data-*.bin"))) == 1


def test_compacting_many_segments_copies_only_those_with_room_to_give(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2000)
    monkeypatch.setattr("clara_model.store.sqlite.store.SEGMENT_BYTES", 2000)
    with open_store(tmp_path) as store:
        for name in range(60):
            store.put(FINGERPRINT, blocks([name]))
        before = {path.name: path.stat().st_ino for path in tmp_path.glob("data-*.bin")}
        assert len(before) == 8
        store.delete([key(name) for name in range(4, 12)])
        store.compact()
        after = {path.name: path.stat().st_ino for path in tmp_path.glob("data-*.bin")}
        assert set(before) - set(after) == {"data-1.bin", "data-2.bin"}
        assert all_there(store, range(4)) and all_there(store, range(12, 60))
        assert store.verify() == []


def test_a_coarse_index_that_is_begun_again_twice_keeps_the_later_files(tmp_path: Path, monkeypatch):
    with open_store(tmp_path / "s") as store:
        store.put(FINGERPRINT, blocks(range(20), width=256))
        one, two = (CoarseIndex(tmp_path / "i", store.identity) for _ in range(2))
        one.update(store)
        glob = Path.glob

        def late(self: Path, pattern: str):
            monkeypatch.setattr(Path, "glob", glob)
            two.clear()
            two.update(store)
            return glob(self, pattern)

        monkeypatch.setattr(Path, "glob", late)
        one.clear()
        assert len(two.numbers(two.reach())) == 20
        assert {path.name[0] for path in (tmp_path / "i").glob("*.bin")} == {"3"}


def test_who_holds_a_store_that_is_cleared_and_filled_anew_goes_on_in_it(store: DurableStore, reopened: Reopen):
    store.put(FINGERPRINT, blocks(range(20)))
    with reopened() as other:
        other.clear()
        other.put(FINGERPRINT, blocks(range(1000, 1050)))
    with reopened() as reader:
        held = reader.get(FINGERPRINT, [key(name) for name in range(1000, 1050)])
        store.put(FINGERPRINT, blocks(range(20, 50)))
        assert all(same(one, block(name)) for name, one in zip(range(1000, 1050), held, strict=True))
        assert all_there(reader, range(20, 50))
        assert all_there(reader, range(1000, 1050))
        assert (reader.stats().blocks, reader.verify()) == (80, [])


def test_a_block_that_another_run_deletes_before_its_document_is_recorded(store: DurableStore, reopened: Reopen):
    store.put(FINGERPRINT, blocks(["old", "new"]))
    store.record([document("a", "old")])
    with reopened() as other:
        assert other.numbers([key("old")])  # the other has seen that it need not be made ..
        store.record([document("a", "new")])  # .. and its last document changes
        with pytest.raises(ValueError, match="is not in the store; put it first"):
            other.record([document("b", "old")])
        other.put(FINGERPRINT, blocks(["old"]))
        other.record([document("b", "old")])
        assert other.verify() == []


def test_who_looks_at_the_store_while_the_first_blocks_come_does_not_make_them_nobodys(tmp_path: Path, monkeypatch):
    with open_store(tmp_path) as store:
        assert isinstance(store, SQLiteStore)
        real = store._room

        def late(connection):  # the store is claimed, and nobody else can see it yet
            assert store.generation == 0
            return real(connection)

        monkeypatch.setattr(store, "_room", late)
        store.put(FINGERPRINT, blocks(range(3)))
        assert all_there(store, range(3))


def test_lance_puts_back_what_was_recorded_while_it_was_deleted(tmp_path: Path, monkeypatch):
    with open_store(tmp_path / "s.lance") as store, open_store(tmp_path / "s.lance") as other:
        assert isinstance(store, LanceStore)
        store.put(FINGERPRINT, blocks(["old", "new"]))
        store.record([document("a", "old")])
        real = store.delete

        def late(keys):  # nobody uses them, it was found; now somebody does
            other.record([document("b", "old")])
            return real(keys)

        monkeypatch.setattr(store, "delete", late)
        store.record([document("a", "new")])
        assert store.verify() == []
        assert same(store.get(FINGERPRINT, [key("old")])[0], block("old"))


def test_lance_compacts_beside_one_that_writes(tmp_path: Path, monkeypatch):
    with open_store(tmp_path / "s.lance") as store, open_store(tmp_path / "s.lance") as other:
        assert isinstance(store, LanceStore)
        for name in range(5):
            store.put(FINGERPRINT, blocks([name]))
        real, turns = store._table, []

        def late(name: str):
            table = real(name)
            if name == "blocks" and len(turns) < 3:  # the other replaces what is about to be joined
                turns.append(name)
                other.put(FINGERPRINT, blocks([len(turns)]))
            return table

        monkeypatch.setattr(store, "_table", late)
        store.compact()
        assert len(turns) == 3
        assert all_there(other, range(5))


READS = {
    "get": lambda store: [
        same(one, block(i)) for i, one in enumerate(store.get(FINGERPRINT, [key(i) for i in range(9)]))
    ],
    "iterate": lambda store: sorted(row.key for row in store.iterate()),
    "numbers": lambda store: sorted(store.numbers([key(i) for i in range(9)])),
    "all_numbers": lambda store: len(store.all_numbers()),
    "find": lambda store: store.find(where={"n": {"$gt": 3}}),
    "matching": lambda store: len(store.matching({"n": {"$gt": 3}})),
    "places": lambda store: store.places([key(5), key(7)]),
    "digests": lambda store: store.digests(),
    "documents": lambda store: list(store.documents()),
    "verify": lambda store: store.verify(),
    "stats": lambda store: (store.stats().blocks, store.stats().documents),
    "put": lambda store: store.put(FINGERPRINT, blocks([3])),
    "delete": lambda store: store.delete([key(8)]),
    "forget": lambda store: store.forget(["d8"]),
    "record": lambda store: store.record([document("e", 5)]),
}


@pytest.mark.parametrize("name", READS)
def test_lance_goes_on_where_another_compacts_what_it_has_just_opened(name: str, tmp_path: Path, monkeypatch):
    with open_store(tmp_path / "s.lance") as store, open_store(tmp_path / "s.lance") as other:
        assert isinstance(store, LanceStore)
        for i in range(9):
            store.put(FINGERPRINT, blocks([i]))
            store.record([replace(document(f"d{i}", i), metadata={"n": i})])
        expected = READS[name](other)
        other.put(FINGERPRINT, blocks([3, 8]))
        other.record([replace(document("d8", 8), metadata={"n": 8})])
        real, turns = store._table, []

        def late(table_name: str):
            table = real(table_name)
            if not turns:
                turns.append(table_name)
                other.put(FINGERPRINT, blocks([2]))
                other.compact()
                assert len(list(tmp_path.glob("s.lance/blocks.lance/_versions/*.manifest"))) == 1
            return table

        monkeypatch.setattr(store, "_table", late)
        assert READS[name](store) == expected
        assert turns


def test_lance_reads_all_while_another_compacts_again_and_again(tmp_path: Path):
    with open_store(tmp_path / "s.lance") as store, open_store(tmp_path / "s.lance") as other:
        for start in range(0, 900, 100):
            store.put(FINGERPRINT, blocks(range(start, start + 100)))
        seen = {}
        for row in store.iterate():
            assert same(row.block, block(row.block.text.removeprefix("text of ")))
            seen[row.key] = row.number
            if len(seen) in (1, 300, 800):
                other.put(FINGERPRINT, blocks([len(seen)]))
                other.compact()
        assert seen.keys() == blocks(range(900)).keys()


def test_lance_killed_between_its_two_commits_leaves_no_block_that_nothing_deletes(tmp_path: Path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed_at_the_second(real: Callable, commits: list[str]) -> Callable:
        def commit(name: str, *rest: object) -> None:
            if commits:
                raise Killed
            real(name, *rest)
            commits.append(name)

        return commit

    with open_store(tmp_path / "s.lance") as store, open_store(tmp_path / "s.lance") as other:
        assert isinstance(store, LanceStore)
        store.put(FINGERPRINT, blocks(["old", "new", "gone"]))
        store.record([document("a", "old"), document("b", "gone")])
        for call in (lambda one: one.record([document("a", "new")]), lambda one: one.forget(["b"])):
            commits: list[str] = []
            with monkeypatch.context() as patch, pytest.raises(Killed):
                for name in ("_merge", "_delete"):
                    patch.setattr(store, name, killed_at_the_second(getattr(store, name), commits))
                call(store)
            call(other)  # as the next `clara compress` does
        assert [row.key for row in other.iterate()] == [key("new")]
        assert other.verify() == []

"""Writers that are killed, run side by side, or have no room left: what was acknowledged is there, and whole."""

import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
from faults import ended, in_child, killed
from kit import FINGERPRINT, block, blocks, key, same

from clara_model.errors import ClaraError
from clara_model.store import StoredDocument, Window, open_store

SIZES = {"slots": 8, "width": 512}
PER_CALL = 10


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Of the embedded store, which a forked child may use; Lance's own threads do not outlive a fork (`test_lance`)."""
    return tmp_path / "latents"


def test_killed_in_the_middle_of_writing_fifty_times(place: Path):
    draw = random.Random(0)
    acknowledged: list[int] = []
    for attempt in range(50):
        read, write = os.pipe()
        first = attempt * 100_000

        def work(first: int = first, write: int = write) -> None:
            with open_store(place) as store:
                for start in range(first, first + 100_000, PER_CALL):
                    store.put(FINGERPRINT, blocks(range(start, start + PER_CALL), **SIZES))
                    os.write(write, b"%d\n" % start)

        pid = in_child(work)
        os.close(write)
        with os.fdopen(read, "rb") as lines:
            acknowledged.append(int(lines.readline()))  # it has started writing
            time.sleep(draw.uniform(0, 0.02))
            killed(pid)
            acknowledged += [int(line) for line in lines.read().splitlines(keepends=True) if line.endswith(b"\n")]
        with open_store(place) as store:
            names = [name for start in acknowledged[-5:] for name in range(start, start + PER_CALL)]
            found = store.get(FINGERPRINT, [key(name) for name in names])
            assert all(same(one, block(name, **SIZES)) for one, name in zip(found, names, strict=True))
    with open_store(place) as store:
        assert store.verify() == []
        rows = {row.key: row.block for row in store.iterate()}
    for start in acknowledged:
        for name in range(start, start + PER_CALL):
            assert same(rows.pop(key(name)), block(name, **SIZES))
    assert len(rows) % PER_CALL == 0  # calls that were not acknowledged any more: whole ones only
    assert len(acknowledged) >= 50


def test_killed_while_documents_are_recorded(place: Path):
    for attempt in range(5):
        read, write = os.pipe()

        def work(attempt: int = attempt, write: int = write) -> None:
            with open_store(place) as store:
                store.put(FINGERPRINT, blocks(range(20)))
                for step in range(1_000_000):
                    windows = tuple(Window(key(name), name, step) for name in range(20))
                    store.record([StoredDocument("a", windows, f"{attempt} {step}"), StoredDocument("b", windows, "d")])
                    os.write(write, b".")

        pid = in_child(work)
        os.close(write)
        os.read(read, 1)
        time.sleep(0.02)
        killed(pid)
        os.close(read)
        with open_store(place) as store:
            assert store.verify() == []
            assert [len(one.windows) for one in store.documents()] == [20, 20]
            assert len({one.end for one in store.find("a")}) == 1  # all of one call


def test_two_processes_write_and_four_read(place: Path):
    with open_store(place) as store:
        store.put(FINGERPRINT, blocks(range(2)))

    def writer(number: int) -> None:
        with open_store(place) as store:
            for name in range(number, 120, 2):
                store.put(FINGERPRINT, blocks([name], **SIZES))
            assert all(
                same(store.get(FINGERPRINT, [key(name)])[0], block(name, **SIZES)) for name in range(number, 120, 2)
            )

    def reader(number: int) -> None:
        draw = random.Random(number)
        with open_store(place) as store:
            for _ in range(60):
                names = draw.sample(range(120), 10)
                for name, found in zip(names, store.get(FINGERPRINT, [key(name) for name in names]), strict=True):
                    assert found is None or same(found, block(name, **SIZES)) or same(found, block(name))

    children = [in_child(lambda n=n: writer(n)) for n in range(2)] + [in_child(lambda n=n: reader(n)) for n in range(4)]
    assert [ended(pid) for pid in children] == [0] * 6
    with open_store(place) as store:
        assert store.stats().blocks == 120
        assert store.verify() == []


def test_a_child_after_a_fork_uses_the_store_of_its_parent(place: Path):
    with open_store(place) as store:
        store.put(FINGERPRINT, blocks([1]))

        def work() -> None:
            assert same(store.get(FINGERPRINT, [key(1)])[0], block(1))
            store.put(FINGERPRINT, blocks([2]))
            store.close()

        assert ended(in_child(work)) == 0
        assert same(store.get(FINGERPRINT, [key(2)])[0], block(2))


def test_a_full_disk_keeps_what_was_acknowledged(place: Path, tmp_path: Path):
    notes = tmp_path / "acknowledged"

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
        store = open_store(place)
        done = 0
        with pytest.raises(ClaraError, match="nothing of this call was kept"):
            for start in range(0, 100_000, PER_CALL):
                store.put(FINGERPRINT, blocks(range(start, start + PER_CALL), **SIZES))
                done = start + PER_CALL
        notes.write_text(str(done))
        assert same(store.get(FINGERPRINT, [key(0)])[0], block(0, **SIZES))  # still of use

    assert ended(in_child(work)) == 0
    done = int(notes.read_text())
    assert done >= 5 * PER_CALL
    with open_store(place) as store:
        assert store.verify() == []
        assert store.stats().blocks == done
        store.put(FINGERPRINT, blocks(range(done, done + 100), **SIZES))  # there is room again
        found = store.get(FINGERPRINT, [key(name) for name in range(done + 100)])
        assert all(same(one, block(name, **SIZES)) for name, one in enumerate(found))


def test_killed_while_compacting(place: Path):
    with open_store(place) as store:
        store.put(FINGERPRINT, blocks(range(100), **SIZES))
    draw = random.Random(1)
    for _ in range(8):
        read, write = os.pipe()

        def work(write: int = write) -> None:
            with open_store(place) as store:
                os.write(write, b".")
                while True:
                    store.put(FINGERPRINT, blocks(range(50), **SIZES))  # leaves room to give back
                    store.compact()

        pid = in_child(work)
        os.close(write)
        os.read(read, 1)
        time.sleep(draw.uniform(0.001, 0.05))
        killed(pid)
        os.close(read)
        with open_store(place) as store:
            assert store.verify() == []
            assert store.stats().blocks == 100


def test_one_process_reads_while_another_compacts(place: Path):
    with open_store(place) as store:
        store.put(FINGERPRINT, blocks(range(100), **SIZES))

    def compact() -> None:
        with open_store(place) as store:
            for _ in range(10):
                store.put(FINGERPRINT, blocks(range(50), **SIZES))
                store.compact()

    pid = in_child(compact)
    with open_store(place) as store:
        for _ in range(100):
            found = store.get(FINGERPRINT, [key(name) for name in range(100)])
            assert all(same(one, block(name, **SIZES)) for name, one in enumerate(found))
    assert ended(pid) == 0

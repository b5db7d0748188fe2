"""What only the Lance store does: processes that do not share memory, damage in its files, its names, its search."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kit import FINGERPRINT, block, blocks, key, same

from clara_model.errors import ClaraError
from clara_model.search.store_search import StoreSearch
from clara_model.store import StoredDocument, Window, open_store
from clara_model.store.lance import LanceStore
from clara_model.store.opening import existing_store

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from kit import FINGERPRINT, blocks
from clara_model.store import open_store
with open_store(sys.argv[2]) as store:
    for start in range(int(sys.argv[3]), int(sys.argv[4]), 5):
        store.put(FINGERPRINT, blocks(range(start, start + 5)))
        print(start + 5, flush=True)
"""


def writer(place: Path | str, start: int, end: int) -> subprocess.Popen:
    given = [str(Path(__file__).parent), str(place), str(start), str(end)]
    return subprocess.Popen([sys.executable, "-c", WRITER, *given], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "latents.lance"


def test_killed_while_it_writes_every_call_that_returned_is_there_and_no_half_one(place: Path):
    done = 0
    for turn in range(3):
        child = writer(place, done, 100_000)
        assert child.stdout is not None
        for _ in range(3 + turn):
            done = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        done = max([done, *map(int, child.stdout.read().split())])
        child.wait()
    with open_store(place) as store:
        found = store.get(FINGERPRINT, [key(name) for name in range(done)])
        assert all(same(one, block(name)) for name, one in enumerate(found))
        assert store.stats().blocks in (done, done + 5)  # the last call may have been done and not said
        assert store.verify() == []


def test_two_processes_write_at_once(place: Path):
    children = [writer(place, 0, 50), writer(place, 1000, 1050)]
    assert [child.wait() for child in children] == [0, 0]
    with open_store(place) as store:
        assert store.stats().blocks == 100
        assert store.verify() == []
        numbers = [row.number for row in store.iterate()]
        assert numbers == sorted(set(numbers))


def test_flipped_bytes_are_never_returned_as_a_latent(place: Path, caplog: pytest.LogCaptureFixture):
    with open_store(place) as store:
        store.put(FINGERPRINT, blocks(range(40)))
    files = [file for file in place.rglob("*.lance") if file.is_file()]
    draw = random.Random(0)
    noticed = 0
    for _ in range(40):
        file = draw.choice([file for file in files if "blocks" in str(file)])
        data = bytearray(file.read_bytes())
        spot = draw.randrange(len(data))
        data[spot] ^= draw.randrange(1, 256)
        whole = file.read_bytes()
        file.write_bytes(data)
        caplog.clear()
        try:
            with open_store(place) as store:
                for name, one in enumerate(store.get(FINGERPRINT, [key(name) for name in range(40)])):
                    assert one is None or same(one, block(name))
                    noticed += one is None
        except ClaraError:
            noticed += 1
        file.write_bytes(whole)
    assert noticed > 20


def test_search_finds_what_comes_is_replaced_and_is_compacted(place: Path):
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 4, 256, generator=draw).bfloat16()
    from clara_model.store import Block

    with open_store(place) as store:
        search = StoreSearch(store)
        for start in (0, 100, 200):
            part = {key(i): Block(vectors[i], 5, str(i)) for i in range(start, start + 100)}
            store.put(FINGERPRINT, part)
            assert search.best(vectors[start + 7], 1)[0].row.key == key(start + 7)
        store.record([StoredDocument("a", (Window(key(3), 0, 1), Window(key(4), 1, 2)), "d", {"file": "a"})])
        assert [one.row.key for one in search.best(vectors[4], 5, {"file": "a"})] == [key(4), key(3)]
        store.put(FINGERPRINT, {key(8): Block(vectors[9], 5)})
        assert {one.row.key for one in search.best(vectors[9], 2)} == {key(8), key(9)}
        store.compact()
        assert search.best(vectors[250], 1)[0].row.key == key(250)
        assert [one.number for one in store.find("a")] == [0, 1]


def test_names(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with open_store(f"file://{place}") as store:
        assert isinstance(store, LanceStore)
    assert existing_store(place) == str(place)
    with pytest.raises(FileNotFoundError, match=r"nowhere.lance does not exist"):
        existing_store(tmp_path / "nowhere.lance")
    with pytest.raises(ClaraError, match=r"unknown scheme ftp://; a store is a folder or at s3://, gs://"):
        open_store("ftp://there/latents")
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(ClaraError, match=r"needs the package pylance; .*\[lance\]"):
        open_store(place)


def test_a_newer_format_and_another_element_type(place: Path):
    import lance
    import pyarrow

    with open_store(place, encoding="int8") as store:
        assert store.stats().encoding == "int8"
    with pytest.raises(ClaraError, match="encoding int8 and exact was asked for"):
        open_store(place, encoding="exact")
    schema = pyarrow.schema([("key", pyarrow.string())], metadata={"format": "9"})
    lance.write_dataset(schema.empty_table(), str(place / "blocks.lance"), schema=schema, mode="overwrite")
    with pytest.raises(ClaraError, match="has the format 9 and this version reads 1"):
        open_store(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(ClaraError, match="cannot be used"):
        open_store(tmp_path / "a.lance")

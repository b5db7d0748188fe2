"""A disk that is really full: what is deleted makes room, and the rest stays as it was."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import disk_usage

import pytest
from kit import FINGERPRINT, block, blocks, key, same

from clara_model.errors import ClaraError
from clara_model.store import open_store
from clara_model.store.sqlite import store as sqlite_store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mounted)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small disk takes the superuser")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_deleting_and_compacting_make_room(small_disk: Path, monkeypatch: pytest.MonkeyPatch):
    """With files of blocks that are as much smaller as the disk is."""
    monkeypatch.setattr(sqlite_store, "SEGMENT_BYTES", 1 << 20)
    sizes = {"slots": 16, "width": 1024}  # 32 KB
    with open_store(small_disk / "latents") as store:
        done = 0
        with pytest.raises(ClaraError, match="nothing of this call was kept"):
            while True:
                store.put(FINGERPRINT, blocks(range(done, done + 10), **sizes))
                done += 10
        assert done > 100
        before = store.stats().nbytes
        assert store.delete([key(name) for name in range(done - 40)]) == done - 40
        store.compact()
        assert store.stats().nbytes < before / 2
        store.put(FINGERPRINT, blocks(range(10), **sizes))
        names = [*range(10), *range(done - 40, done)]
        found = store.get(FINGERPRINT, [key(name) for name in names])
        assert all(same(one, block(name, **sizes)) for name, one in zip(names, found, strict=True))
        assert store.verify() == []


def test_a_compaction_without_room_says_how_much_it_needs_and_takes_none(small_disk: Path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "SEGMENT_BYTES", 1 << 20)
    sizes = {"slots": 1, "width": 512}  # 1 KB: 1,024 in a file, of which a half is left
    with open_store(small_disk / "latents") as store:
        for start in range(0, 3072, 256):
            store.put(FINGERPRINT, blocks(range(start, start + 256), **sizes))
        store.delete([key(name) for name in range(3072) if name % 2])
        with (small_disk / "ballast").open("wb") as ballast:
            ballast.write(bytes(disk_usage(small_disk).free - (300 << 10)))
        before = disk_usage(small_disk).free
        with pytest.raises(ClaraError, match=r"No space left.*data-1\.bin takes 524,288 bytes until the 1,048,576 of"):
            store.compact()
        assert disk_usage(small_disk).free >= before - (16 << 10)  # a copy of a half is not left behind
        assert store.verify() == []
        store.delete([key(name) for name in range(1024, 2048)])
        store.compact()  # a file without any block goes first, and what it gives is room for the others
        assert not any((small_disk / "latents" / f"data-{number}.bin").exists() for number in (1, 2, 3))
        names = [*range(0, 1024, 2), *range(2048, 3072, 2)]
        found = store.get(FINGERPRINT, [key(name) for name in names])
        assert all(same(one, block(name, **sizes)) for name, one in zip(names, found, strict=True))

"""A disk that is really full: what is deleted makes room, and the rest stays as it was."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

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

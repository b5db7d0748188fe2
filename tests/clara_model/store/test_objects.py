"""A store on object storage beyond the common tests: processes that write at once and are killed, and no network.

The first want a bucket (``make objects``); the last shows what a user sees whose storage cannot be reached.
"""

import signal
import time
from pathlib import Path

import pytest
from kit import BUCKET, FINGERPRINT, block, key, same
from test_lance import writer

from clara_model.cli.main import main
from clara_model.errors import ClaraError
from clara_model.search.store_search import StoreSearch
from clara_model.store import open_store
from clara_model.store.opening import existing_store

needs_bucket = pytest.mark.skipif(BUCKET is None, reason="wants a bucket: make objects")


@pytest.fixture
def url() -> str:
    import uuid

    return f"{BUCKET}/{uuid.uuid4().hex}"


@needs_bucket
def test_two_processes_write_at_once_and_one_is_killed(url: str):
    with open_store(url):
        pass
    first, second = writer(url, 0, 100_000), writer(url, 1_000_000, 1_000_025)
    assert first.stdout is not None
    done = max(int(first.stdout.readline()) for _ in range(4))
    first.send_signal(signal.SIGKILL)
    done = max([done, *map(int, first.stdout.read().split())])
    first.wait()
    assert second.wait() == 0
    with open_store(url) as store:
        names = [*range(done), *range(1_000_000, 1_000_025)]
        assert all(
            same(one, block(name))
            for name, one in zip(names, store.get(FINGERPRINT, [key(n) for n in names]), strict=True)
        )
        assert store.stats().blocks in (len(names), len(names) + 5)  # the last call may have been done and not said
        assert store.verify() == []


@needs_bucket
def test_search_and_commands(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{url} holds no store"):
        existing_store(url)
    with open_store(url) as store:
        store.put(FINGERPRINT, {key(n): block(n, width=256) for n in range(50)})
        assert StoreSearch(store).best(block(7, width=256).vector, 1)[0].row.key == key(7)
    assert any(tmp_path.rglob("*"))  # the coarse index is on this machine
    assert main(["store", "stats", url]) == 0
    assert "50" in capsys.readouterr().out
    assert main(["store", "clear", url]) == 2
    assert "is on object storage; remove its blocks.lance and documents.lance there" in capsys.readouterr().err


def test_storage_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    start = time.perf_counter()
    with pytest.raises(ClaraError, match=r"s3://nowhere/latents cannot be used") as caught:
        open_store("s3://nowhere/latents")
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 60

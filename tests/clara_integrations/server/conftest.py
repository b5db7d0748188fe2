"""A running server with `clara-tiny` and a store."""

import httpx
import pytest
from served import running

from clara_model import Clara


@pytest.fixture(scope="session")
def tiny():
    with Clara.load("clara-tiny", dtype="float32", device="cpu") as clara:
        yield clara


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "store"
    with Clara.load("clara-tiny", dtype="float32", device="cpu", store=folder) as clara:
        yield clara


@pytest.fixture(scope="session")
def url(tiny, stored):
    with running(tiny, stored) as address:
        yield address


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client

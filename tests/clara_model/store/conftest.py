"""A fresh store of each kind behind the interface; on object storage where there is a bucket (``make objects``)."""

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kit import BUCKET

from clara_model.store import DurableStore, open_store

KINDS = {"sqlite": "latents", "lance": "latents.lance"}


@pytest.fixture(params=[*KINDS, "objects"] if BUCKET else KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a store of one kind may be made."""
    return f"{BUCKET}/{uuid.uuid4().hex}" if request.param == "objects" else tmp_path / KINDS[request.param]


@pytest.fixture
def store(place: Path | str) -> Iterator[DurableStore]:
    """An empty store of one kind."""
    with open_store(place) as opened:
        yield opened


@pytest.fixture
def reopened(place: Path | str, store: DurableStore) -> Callable[[], DurableStore]:
    """Opens the same store again, as another process would."""
    return lambda: open_store(place)

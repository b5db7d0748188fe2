"""A fresh store of each kind behind the interface."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from clara_model.store import DurableStore, open_store

KINDS = {"sqlite": "latents", "lance": "latents.lance"}


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a store of one kind may be made."""
    return tmp_path / KINDS[request.param]


@pytest.fixture
def store(place: Path) -> Iterator[DurableStore]:
    """An empty store of one kind."""
    with open_store(place) as opened:
        yield opened


@pytest.fixture
def reopened(place: Path, store: DurableStore) -> Callable[[], DurableStore]:
    """Opens the same store again, as another process would."""
    return lambda: open_store(place)

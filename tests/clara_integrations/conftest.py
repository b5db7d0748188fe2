"""Fixtures shared by the tests of both frameworks' components."""

import pytest

from clara_model.inference.clara import Clara


@pytest.fixture(scope="module")
def clara(tiny_clara_folder):
    """Held while the tests of a file run, so that every component shares it."""
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as held:
        yield held

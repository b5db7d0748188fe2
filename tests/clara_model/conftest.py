"""Loaded models that many tests share; a test that changes one takes a deep copy or the ``model`` fixture."""

from pathlib import Path

import pytest
import small_model
import torch

from clara_model import ClaraModel


@pytest.fixture(scope="session")
def loaded(tiny_clara_folder: Path) -> ClaraModel:
    """The small random model, shared: not to be changed."""
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="session")
def other(base_folder: Path) -> ClaraModel:
    """Another checkpoint on the same base, shared: not to be changed."""
    return small_model.build_model(base_folder, seed=2)


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what is in the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))

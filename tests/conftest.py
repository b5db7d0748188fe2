"""Fixtures shared by all tests: the small random model, and the recorded numbers."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import recorded
import small_model
import torch
from hypothesis import HealthCheck, settings
from transformers.utils import logging as transformers_logging

from clara_model import ClaraModel

settings.register_profile(
    "project",
    deadline=None,  # the first example pays for loading
    max_examples=60,
    derandomize=True,  # one run finds what another found
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("project")
FUZZ_EXAMPLES = 25
"""Random calls of each test in ``tests/fuzz``, where ``--fuzz-examples`` does not say."""
SEQUENCES = 200
"""Of calls on a store, in the same way."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long to look for what breaks."""
    parser.addoption("--fuzz-examples", type=int, metavar="N", help="random calls of each test in tests/fuzz")


def pytest_configure(config: pytest.Config) -> None:
    """The profile of ``tests/fuzz``: ``@settings.get_profile("fuzz")``."""
    examples = config.getoption("--fuzz-examples") or FUZZ_EXAMPLES
    settings.register_profile("fuzz", settings.get_profile("project"), max_examples=examples)
    sequences = config.getoption("--fuzz-examples") or SEQUENCES
    settings.register_profile("sequences", settings.get_profile("project"), max_examples=sequences)


DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def transformers_says_what_it_said() -> Iterator[None]:
    """A command that runs in this process turns transformers' messages and bars off, for itself alone."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    yield
    transformers_logging.set_verbosity(verbosity)
    transformers_logging._tqdm_active = bars  # its own switch warns where the hub's bars are off


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the small random base model."""
    return small_model.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_clara_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small random CLaRa checkpoint in this project's layout."""
    folder = tmp_path_factory.mktemp("clara")
    small_model.build_model(base_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def model(tiny_clara_folder: Path) -> ClaraModel:
    """A fresh copy of the small random model, float32 on the CPU."""
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The recorded numbers of the published implementation: the full set where it is here, else the small one."""
    return recorded.folder()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real questions and text."""
    if not DATA.is_dir():
        pytest.skip("the shared data is not here")
    return DATA

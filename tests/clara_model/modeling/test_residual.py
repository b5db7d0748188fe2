"""What a checkpoint says of its residual, and what it is refused for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import small_model

from clara_model import ClaraModel
from clara_model.checkpoint.config import ClaraConfig
from clara_model.errors import ClaraError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.save_base(tmp_path_factory.mktemp("base"))


def test_a_missing_tensor_is_named(base: Path, tmp_path: Path):
    model = small_model.build_model(base, residual="anchors")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["residual"] == "anchors"
    state = model.state()
    state.residual.pop("residual.compressor.gate")
    with pytest.raises(ClaraError, match=r"'residual\.compressor\.gate' in .* is missing"):
        ClaraModel.from_pretrained(tmp_path, device="cpu").load_weights(state)


def test_a_checkpoint_without_residual_is_written_as_before(base: Path):
    model = small_model.build_model(base)
    assert not {"residual", "base_sha256"} & set(model.config.to_dict())
    assert not model.state().residual
    assert {"residual", "base_sha256"} <= set(replace(model.config, residual="anchors", base_sha256="0").to_dict())


def test_unknown_values_are_refused(base: Path):
    with pytest.raises(ClaraError, match=r"^residual must be one of none, anchors, got 'other'"):
        small_model.build_model(base, residual="other")


@pytest.mark.parametrize(
    ("values", "asked"),
    [({"residual": "blocks"}, "residual 'blocks'"), ({"memory_positions": "spread"}, "memory_positions 'spread'")],
)
def test_experiments_that_are_gone_are_named(values: dict, asked: str):
    written = ClaraConfig(base_model="base").to_dict()
    assert ClaraConfig.from_dict({**written, "memory_positions": "appended"}) == ClaraConfig(base_model="base")
    with pytest.raises(ClaraError, match=f"config.json asks for {asked}, which was an experiment; train it again"):
        ClaraConfig.from_dict({**written, **values})

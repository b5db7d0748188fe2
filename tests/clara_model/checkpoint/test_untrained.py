"""A role whose adapter was never trained is not stored, starts afresh when loaded, and needs a note to be absent."""

from pathlib import Path

import pytest
import small_model
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clara_model import ClaraError, ClaraModel
from clara_model.checkpoint.files import ADAPTERS, UNTRAINED

FRESH = ("compressor", "query_reasoner")


@pytest.fixture
def model(tmp_path: Path) -> ClaraModel:
    """Only the generator's adapter adds anything."""
    made = small_model.build_model(small_model.save_base(tmp_path / "base"))
    for role in FRESH:
        made.roles.load(role, {}, "nothing")
    return made


def load(folder: Path) -> ClaraModel:
    return ClaraModel.from_pretrained(folder, dtype=torch.float32, device="cpu")


def test_what_adds_nothing_is_not_stored_and_nothing_changes(model: ClaraModel, tmp_path: Path):
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / ADAPTERS))
    assert not any(name.startswith(FRESH) for name in names) and "memory.compressor" in names
    assert any(name.startswith("generator.") for name in names)
    again = load(tmp_path)
    assert again.fingerprint == model.fingerprint
    torch.testing.assert_close(again.compress(small_model.TEXTS).vectors, model.compress(small_model.TEXTS).vectors)


def test_it_starts_afresh_with_the_same_numbers_and_can_be_trained(model: ClaraModel, tmp_path: Path):
    model.save_pretrained(tmp_path / "first")
    one, other = load(tmp_path / "first"), load(tmp_path / "first")
    for name, parameter in one.roles.parameters("compressor").items():
        assert torch.equal(parameter, other.roles.parameters("compressor")[name])
        assert bool(parameter.any()) == (".lora_A." in name)
        assert parameter.abs().max() <= parameter.shape[1] ** -0.5 or ".lora_B." in name
    before = one.fingerprint
    with torch.no_grad():
        next(p for name, p in one.roles.parameters("compressor").items() if ".lora_B." in name).add_(0.5)
    assert one.fingerprint != before
    one.save_pretrained(tmp_path / "second")
    with safe_open(tmp_path / "second" / ADAPTERS, framework="pt") as file:
        assert file.metadata()[UNTRAINED] == "query_reasoner"
    assert load(tmp_path / "second").fingerprint == one.fingerprint


def test_an_adapter_that_adds_nothing_yet_but_was_drawn_otherwise_is_stored(model: ClaraModel, tmp_path: Path):
    """As after the first step of a run whose rate rises from 0: resuming needs its very numbers."""
    model.roles.reset("compressor")
    model.save_pretrained(tmp_path)
    again = load(tmp_path).roles.parameters("compressor")
    assert all(torch.equal(weight, again[name]) for name, weight in model.roles.parameters("compressor").items())


def test_a_checkpoint_with_every_role_trained_has_no_note(tmp_path: Path):
    model = small_model.build_model(small_model.save_base(tmp_path / "base"))
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / ADAPTERS, framework="pt") as file:
        assert not (file.metadata() or {}).get(UNTRAINED)


def test_weights_that_are_missing_without_the_note_are_a_damage(model: ClaraModel, tmp_path: Path):
    model.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / ADAPTERS), tmp_path / ADAPTERS)
    with pytest.raises(ClaraError, match="holds no LoRA weights of the compressor; is the download complete"):
        load(tmp_path)

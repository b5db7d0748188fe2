"""An exported generator is an ordinary model that writes what the generator writes, under a name of its own."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clara_model.checkpoint import export as exporting
from clara_model.checkpoint.export import export, generator_name
from clara_model.errors import ClaraError


def exported(model, folder):
    return export(model.base, model.tokens.tokenizer, folder)


def test_the_folder_loads_as_an_ordinary_model_with_the_generators_logits(loaded, tmp_path):
    name = exported(loaded, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.tensor([[5, 9, 77, 120, 31]])
    with torch.no_grad(), loaded.roles.acting_as("generator"):
        expected = loaded.base(ids).logits
    torch.testing.assert_close(plain(ids).logits, expected, rtol=0, atol=1e-5)
    assert plain.dtype == torch.float32 and not [key for key in plain.state_dict() if "lora" in key]
    assert plain.config.clara_generator == name == generator_name(loaded.base)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == loaded.tokens.tokenizer.get_vocab()


def test_shards_hold_every_weight_once(loaded, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    exported(loaded, whole)
    monkeypatch.setattr(exporting, "SHARD", "20KB")
    exported(loaded, tmp_path / "parts")
    index = json.loads((tmp_path / "parts/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    one, other = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (whole, tmp_path / "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_name_is_of_the_generator_in_any_float_type_and_of_nothing_else(loaded, other):
    name = generator_name(loaded.base)
    assert name != generator_name(other.base)
    half = copy.deepcopy(loaded).to(torch.bfloat16)
    half.base.config.dtype = torch.bfloat16
    assert generator_name(half.base) == name
    changed = copy.deepcopy(loaded)
    with torch.no_grad():
        next(iter(changed.roles.parameters("compressor").values())).add_(1)
    assert generator_name(changed.base) == name
    with torch.no_grad():
        next(iter(changed.roles.parameters("generator").values())).add_(1)
    assert generator_name(changed.base) != name


def test_half_precision_is_exported_as_it_is(loaded, tmp_path):
    half = copy.deepcopy(loaded).to(torch.bfloat16)
    exported(half, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_a_folder_with_something_else_is_refused_and_the_same_export_is_left_alone(loaded, other, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(ClaraError, match="full holds something else; name a folder that is new or empty"):
        exported(loaded, full)
    assert [path.name for path in full.iterdir()] == ["notes.txt"]
    name = exported(loaded, tmp_path / "out")
    before = (tmp_path / "out/model.safetensors").stat()
    assert exported(loaded, tmp_path / "out") == name
    assert (tmp_path / "out/model.safetensors").stat() == before
    with pytest.raises(ClaraError, match=f"out holds {name}"):
        exported(other, tmp_path / "out")


def test_nothing_is_left_where_writing_fails(loaded, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(exporting, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        exported(loaded, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []

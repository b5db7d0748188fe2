"""A base model's folder: no code in it runs, what is damaged is named, and what asks for too much is never built."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_model
import torch
from safetensors.torch import load_file, save_file

from clara_model.checkpoint import base_files
from clara_model.checkpoint.base_model import load_base
from clara_model.checkpoint.options import LoadOptions
from clara_model.errors import ClaraError
from clara_model.inference.published import ClaraModel

PLANTED = "import os\nos.mkdir({witness!r})\nclass Planted: pass\n"


@pytest.fixture
def base(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of a base model's folder, to be damaged."""
    return Path(shutil.copytree(base_folder, tmp_path / "base"))


def change(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; a field that is None is taken out."""
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def load(folder: Path) -> tuple[Any, Any]:
    return load_base(str(folder), LoadOptions(device="cpu", dtype="float32"))


def refused(folder: Path, message: str) -> str:
    with pytest.raises(ClaraError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- nothing runs -----------------------------------------------------------------------------------------------


def plant(folder: Path, witness: Path) -> dict[str, Any]:
    (folder / "planted.py").write_text(PLANTED.format(witness=str(witness)))
    return {"auto_map": {name: "planted.Planted" for name in ("AutoConfig", "AutoModelForCausalLM")}}


def test_code_of_an_unknown_kind_of_model_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("standard input was read"))
    change(base / "config.json", model_type="planted", **plant(base, tmp_path / "witness"))
    refused(base, r"config.json has the model_type 'planted', .*code that a folder brings \(auto_map\) is never run")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("form", [["planted.Planted", "planted.Planted"], {"AutoTokenizer": ["planted.Planted", None]}])
def test_code_of_a_tokenizer_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: object):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("standard input was read"))
    plant(base, tmp_path / "witness")
    change(base / "tokenizer_config.json", auto_map=form, tokenizer_class="Planted")
    refused(base, r"tokenizer_config.json asks for code of its own \(auto_map\), which is never run")
    assert not (tmp_path / "witness").exists()


def test_a_known_kind_of_model_is_loaded_without_its_code(base: Path, tmp_path: Path):
    change(base / "config.json", **plant(base, tmp_path / "witness"))
    load(base)
    assert not (tmp_path / "witness").exists()


# -- what is damaged is named -----------------------------------------------------------------------------------


def rewrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def fields(**values: Any) -> Callable[[Path], object]:
    return lambda folder: change(folder / "config.json", **values)


def tokenizer_without(*path: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "tokenizer.json").read_text())
        inner = values
        for part in path[:-1]:
            inner = inner[part]
        inner.pop(path[-1])
        (folder / "tokenizer.json").write_text(json.dumps(values))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rewrite("config.json", b""), "config.json is not valid JSON"),
        (rewrite("config.json", b"[" * 100_000), "config.json is nested too deeply to be read"),
        (rewrite("config.json", b"[]"), "config.json must hold a JSON object, got list"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json; is the download complete"),
        (fields(hidden_size="x"), "config.json cannot be used"),
        (fields(hidden_size=[1]), "config.json cannot be used"),
        (fields(num_attention_heads=0), "config.json cannot be used"),
        (fields(num_attention_heads=-4, head_dim=None), "config.json (cannot be used|asks for)"),
        (fields(head_dim=7), "(config.json cannot be used .*head_dim|model.safetensors cannot be used .*mismatched)"),
        (fields(hidden_act="none"), "config.json cannot be used .*none"),
        (fields(rope_parameters={"rope_type": "none"}), "config.json cannot be used"),
        (fields(intermediate_size=96), "model.safetensors cannot be used"),
        (fields(num_hidden_layers=3), r"the weights in .*\(model.safetensors\) lack 'model.layers.2"),
        (fields(num_hidden_layers="2"), "config.json (cannot be used|asks for '2' layers)"),
        (fields(model_type=None), "config.json has the model_type None"),
        (fields(model_type=5), "config.json has the model_type 5"),
        (fields(model_type="bert"), "config.json"),
        (fields(transformers_weights="../x.safetensors"), "config.json names weight files of its own"),
        (rewrite("adapter_config.json", b"{}"), "adapter_config.json makes this folder an adapter"),
        (rewrite("model.safetensors", b"x"), "model.safetensors is damaged .*; download it again"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
        (rewrite("tokenizer.json", b"{"), "tokenizer.json is not valid JSON"),
        (rewrite("tokenizer.json", b"{}"), "tokenizer.json lacks 'added_tokens'"),
        (rewrite("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}'), "tokenizer.json"),
        (tokenizer_without("model"), "tokenizer.json lacks 'model'"),
        (tokenizer_without("model", "vocab"), "tokenizer.json cannot be used"),
        (rewrite("tokenizer_config.json", b"{"), "tokenizer_config.json is not valid JSON"),
        (rewrite("tokenizer_config.json", b"[]"), "tokenizer_config.json must hold a JSON object"),
        (rewrite("tokenizer_config.json", b'{"bos_token": 5}'), "tokenizer_config.json cannot be used"),
    ],
)
def test_the_damaged_file_is_named(base: Path, damage: Callable[[Path], object], message: str):
    damage(base)
    assert str(base) in refused(base, message)


@pytest.mark.parametrize(
    ("name", "value"), [*(("eos_token_id", one) for one in ([None], "x", 1.5, True, {}, [])), ("bos_token_id", [None])]
)
def test_special_tokens_that_are_no_ids(base: Path, name: str, value: object):
    change(base / "generation_config.json", **{name: value})
    refused(base, f"generation_config.json (has {name} .*, which is no token's id|cannot be used)")


def test_weights_that_lack_a_tensor(base: Path):
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    refused(base, r"\(model.safetensors\) lack 'model.layers.1.mlp.up_proj.weight'; is the download complete")


class Witness:
    """Pickled, it is a call that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_base(base: Path, tmp_path: Path, zipped: bool):
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(tensors, base / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    load(base)
    torch.save(tensors | {"x": Witness(tmp_path / "witness")}, base / "pytorch_model.bin")
    refused(base, "pytorch_model.bin holds pickled code, not only tensors; it was refused and nothing in it was run")
    assert not (tmp_path / "witness").exists()
    (base / "pytorch_model.bin").write_bytes(b"PK\3\4 no archive")
    refused(base, "pytorch_model.bin is damaged")


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": {"a": "../model.safetensors"}}, {"weight_map": {"a": 5}}]
)
def test_an_index_that_names_no_files_of_its_folder(base: Path, index: dict[str, Any]):
    (base / "model.safetensors").rename(base / "other.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(base, "index.json does not name the weight files of its own folder")


def test_weights_in_several_files(base: Path):
    before, _ = load(base)
    before.save_pretrained(base, max_shard_size="50KB")
    (base / "model.safetensors").unlink(missing_ok=True)
    assert len(base_files.check(base).weights) > 1
    again, _ = load(base)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), again.parameters(), strict=True))
    base_files.check(base).weights[0].unlink()
    refused(base, "safetensors is missing; is the download complete")


def test_a_tokenizer_with_more_tokens_than_rows(base: Path):
    tokenizer = small_model.build_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(base)
    refused(base, "tokenizer.json has 401 tokens with ids up to 400, the weights have rows for 400; do the two belong")


# -- what asks for too much is never built ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_hidden_layers": 1_000_000}, "asks for 1000000 layers, the weight files hold 21 tensors"),
        ({"hidden_size": 4_000_000}, "asks for a model of .* numbers, the weight files hold 44192"),
        ({"intermediate_size": 10**10}, "asks for a model of .* numbers"),
        ({"vocab_size": 10**10}, "asks for a model of .* numbers"),
        ({"vocab_size": 10**30}, "config.json cannot be used"),
        ({"num_attention_heads": 2**31, "head_dim": 8}, "config.json (cannot be used|asks for)"),
        ({"model_type": "mixtral", "num_local_experts": 10**9}, "asks for 1000000000 experts"),
    ],
)
def test_a_base_much_larger_than_its_weights(base: Path, sizes: dict[str, Any], message: str):
    change(base / "config.json", **sizes)
    start = time.process_time()
    refused(base, f"config.json {message}" if message.startswith("asks") else message)
    assert time.process_time() - start < 5


@pytest.fixture
def ours(tiny_clara_folder: Path, tmp_path: Path) -> Path:
    """A copy of a folder in this project's layout, to be damaged."""
    return Path(shutil.copytree(tiny_clara_folder, tmp_path / "ours"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"doc_max_length": 10**6, "compression_rate": 1}, "config.json asks for 1000000 memory tokens"),
        ({"doc_max_length": 10**9}, "doc_max_length must be a whole number between 1 and 1048576, got 1000000000"),
        ({"lora_rank": 10**6}, "holds LoRA weights of rank 4 for the compressor, config.json says 1000000"),
        ({"lora_rank": 10**7}, "lora_rank must be a whole number between 1 and 1048576"),
        ({"lora_alpha": 10**400}, "lora_alpha must be a whole number between 1 and 1048576"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_asks_for_more_than_it_holds(ours: Path, values: dict[str, Any], message: str):
    change(ours / "config.json", **values)
    start = time.process_time()
    with pytest.raises(ClaraError, match=message) as caught:
        ClaraModel.from_pretrained(ours)
    assert str(ours) in str(caught.value) and time.process_time() - start < 2


def test_empty_tensors_carry_no_size(ours: Path):
    tensors = load_file(ours / "adapters.safetensors")
    change(ours / "config.json", lora_rank=10**6)
    wide = {key: torch.zeros(10**6, 0) if ".lora_A" in key else value for key, value in tensors.items()}
    save_file(wide, ours / "adapters.safetensors")
    with pytest.raises(ClaraError, match=r"adapters.safetensors holds '.*' of shape \(1000000, 0\)"):
        ClaraModel.from_pretrained(ours)


def test_a_json_file_of_gigabytes_is_not_read(ours: Path):
    with (ours / "config.json").open("r+b") as file:
        file.truncate(10 * 2**30)  # no room is taken on the disk
    with pytest.raises(ClaraError, match=r"config.json has 10737418240 bytes, which no JSON file of a checkpoint has"):
        ClaraModel.from_pretrained(ours)

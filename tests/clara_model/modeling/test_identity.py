"""Fingerprints: they cover everything that shapes a latent, nothing else, and move with every change after loading."""

import copy
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

from clara_model import ClaraModel
from clara_model.checkpoint import hashes
from clara_model.checkpoint.config import ClaraConfig
from clara_model.modeling import identity

TEXTS, QUESTIONS = small_model.TEXTS, small_model.QUESTIONS


def load(folder: Path, **options: Any) -> ClaraModel:
    return ClaraModel.from_pretrained(folder, **{"dtype": torch.float32, "device": "cpu", **options})


@pytest.fixture
def base(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of a base model's folder, to be changed."""
    return Path(shutil.copytree(base_folder, tmp_path / "base"))


# -- what it covers ---------------------------------------------------------------------------------------------


def test_its_form(loaded: ClaraModel):
    assert len(loaded.fingerprint) == 32 and set(loaded.fingerprint) <= set("0123456789abcdef")


def weight(name: str) -> Callable[[Path], None]:
    """Change a little of one tensor of the base."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name].view(-1)[-1] += 1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def field(file: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))

    return change


LAYER = "model.layers.1."


@pytest.mark.parametrize(
    "change",
    [
        *(weight(f"{LAYER}self_attn.{name}_proj.weight") for name in "qkvo"),
        *(weight(f"{LAYER}mlp.{name}_proj.weight") for name in ("gate", "up", "down")),
        *(weight(f"{LAYER}{name}_layernorm.weight") for name in ("input", "post_attention")),
        weight("model.norm.weight"),
        weight("model.embed_tokens.weight"),
        field("config.json", rms_norm_eps=1e-3),
        field("config.json", rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
        field("config.json", hidden_act="gelu"),
        field("tokenizer.json", normalizer={"type": "Lowercase"}),
    ],
)
def test_another_base_is_another_fingerprint(tiny_clara_folder: Path, base: Path, change: Callable[[Path], None]):
    before = load(tiny_clara_folder, base_model=base).fingerprint
    change(base)
    assert load(tiny_clara_folder, base_model=base).fingerprint != before


def test_a_base_with_other_attention_and_mlp_weights(tiny_clara_folder: Path, base: Path):
    """What merging a fine-tune into a base does."""
    model = load(tiny_clara_folder, base_model=base)
    tensors = load_file(base / "model.safetensors")
    for name, tensor in tensors.items():
        if "_proj" in name:
            tensor.add_(torch.randn_like(tensor) * 0.02)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    other = load(tiny_clara_folder, base_model=base)
    assert not torch.equal(model.compress(TEXTS).vectors, other.compress(TEXTS).vectors)
    with pytest.raises(ValueError, match="were made by another checkpoint"):
        model.score(model.encode_queries(QUESTIONS), other.compress(TEXTS))


@pytest.mark.parametrize(
    "change",
    [
        field("config.json", use_cache=False, transformers_version="4.0.0", initializer_range=0.5),
        field("generation_config.json", temperature=0.5),
        field("tokenizer_config.json", model_max_length=5),
        weight("lm_head.weight"),
    ],
)
def test_what_shapes_no_latent_does_not_count(tiny_clara_folder: Path, base: Path, change: Callable[[Path], None]):
    before = load(tiny_clara_folder, base_model=base).fingerprint
    change(base)
    assert load(tiny_clara_folder, base_model=base).fingerprint == before


def test_the_same_weights_in_other_files_are_the_same(tiny_clara_folder: Path, base: Path, loaded: ClaraModel):
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(tensors, base / "pytorch_model.bin")
    assert load(tiny_clara_folder, base_model=base).fingerprint == loaded.fingerprint


def test_built_saved_and_copied_models_have_one(base_folder: Path, tmp_path: Path):
    model = small_model.build_model(base_folder)
    model.save_pretrained(tmp_path)
    assert load(tmp_path).fingerprint == model.fingerprint == copy.deepcopy(model).fingerprint


@pytest.mark.parametrize(
    "values", [{"doc_max_length": 52, "compression_rate": 13}, {"lora_alpha": 4}, {"doc_max_length": 50}]
)
def test_it_follows_the_sizes(base_folder: Path, loaded: ClaraModel, values: dict[str, int]):
    assert small_model.build_model(base_folder, **values).fingerprint != loaded.fingerprint


def test_every_field_of_the_configuration_counts_unless_it_is_named(loaded: ClaraModel):
    """A field that is added to `ClaraConfig` counts by default."""
    shaping = {f for f in ClaraConfig.__dataclass_fields__ if f not in identity.NOT_SHAPING}
    assert {"doc_max_length", "compression_rate", "lora_rank", "lora_alpha"} <= shaping
    assert set(identity.NOT_SHAPING) <= set(ClaraConfig.__dataclass_fields__)


@pytest.mark.parametrize("role", ["query_reasoner", "generator"])
def test_it_does_not_depend_on_other_roles(model: ClaraModel, role: str):
    before = model.fingerprint
    with torch.no_grad():
        for parameter in model.trainable_parameters([role]).values():
            parameter.add_(1)
    assert model.fingerprint == before


def test_one_for_float32_with_every_attention_others_in_half_precision(tiny_clara_folder: Path, loaded: ClaraModel):
    halves = [
        load(tiny_clara_folder, dtype=dtype, attn_implementation=attention).fingerprint
        for dtype in (torch.bfloat16, torch.float16)
        for attention in ("sdpa", "eager")
    ]
    assert len({loaded.fingerprint, *halves}) == 5
    assert load(tiny_clara_folder, attn_implementation="eager").fingerprint == loaded.fingerprint


def test_float32_latents_are_interchangeable_between_attentions(tiny_clara_folder: Path, loaded: ClaraModel):
    eager = load(tiny_clara_folder, attn_implementation="eager")
    torch.testing.assert_close(eager.compress(TEXTS).vectors, loaded.compress(TEXTS).vectors, rtol=0, atol=1e-5)


# -- what moves it ----------------------------------------------------------------------------------------------


def norm(model: ClaraModel) -> torch.nn.Module:
    return model.base.get_decoder().norm


def projection(model: ClaraModel) -> torch.nn.Module:
    return model.base.get_decoder().layers[1].mlp.up_proj


def through_data(model: ClaraModel) -> None:
    norm(model).weight.data *= 2


def replaced_data(model: ClaraModel) -> None:
    norm(model).weight.data = norm(model).weight.data.clone() * 2


def replaced_parameter(model: ClaraModel) -> None:
    norm(model).weight = torch.nn.Parameter(norm(model).weight.detach() * 2)


def round_trip(model: ClaraModel) -> None:
    """Rounded and brought back: freed memory is likely to be used again at the same address."""
    weight = projection(model).base_layer.weight
    weight.data = weight.data.to(torch.bfloat16)
    weight.data = weight.data.to(torch.float32)


CHANGES = {
    "a norm in place": lambda model: norm(model).weight.mul_(2),
    "a norm through .data": through_data,
    "a norm's .data": replaced_data,
    "a norm": replaced_parameter,
    "a projection in place": lambda model: projection(model).base_layer.weight[0, 0].add_(1),
    "a projection through .data": lambda model: projection(model).base_layer.weight.data.add_(1),
    "a projection rounded and brought back": round_trip,
    "the embedding in place": lambda model: model.base.get_input_embeddings().weight[399].add_(1),
    "LoRA in place": lambda model: projection(model).lora_B["compressor"].weight[0, 0].add_(1),
    "LoRA's .data": lambda model: setattr(
        projection(model).lora_B["compressor"].weight, "data", torch.ones(64, 4)
    ),
    "memory rows in place": lambda model: model.memory.of("compressor")[0].add_(1),
    "float type": lambda model: model.to(torch.bfloat16),
}  # fmt: skip


@pytest.mark.parametrize("asked_before", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_after_loading_move_it(model: ClaraModel, loaded: ClaraModel, name: str, asked_before: bool):
    if asked_before:
        assert model.fingerprint == loaded.fingerprint
    with torch.no_grad():
        CHANGES[name](model)
    assert model.fingerprint != loaded.fingerprint


def test_it_follows_every_weight_of_the_compressor(model: ClaraModel):
    seen = {model.fingerprint}
    for parameter in model.trainable_parameters(["compressor"]).values():
        with torch.no_grad():
            parameter.add_(1)
        seen.add(model.fingerprint)
    assert len(seen) == 1 + 28 + 1


def test_a_change_that_is_taken_back_is_none(model: ClaraModel):
    before, kept = model.fingerprint, norm(model).weight.detach().clone()
    with torch.no_grad():
        norm(model).weight.mul_(3)
        assert model.fingerprint != before
        norm(model).weight.copy_(kept)
    assert model.fingerprint == before


# -- what it costs ----------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the hashes of weights."""
    counted: list[int] = []
    for module in (identity, hashes):
        inner = module.hash_tensors
        monkeypatch.setattr(module, "hash_tensors", lambda t, inner=inner: counted.append(len(t)) or inner(t))
    return counted


def test_it_is_computed_once_and_never_in_a_training_step(model: ClaraModel, hashed: list[int]):
    model.compress(TEXTS)
    model.score(model.encode_queries(QUESTIONS), model.compress(TEXTS))
    assert len(hashed) == 2  # the base, and what is the compressor's own
    before = model.fingerprint
    model.set_trainable(("compressor",))
    optimizer = torch.optim.SGD(model.trainable_parameters(["compressor"]).values(), 0.1)
    for _ in range(3):
        model.train()
        padded = small_model.documents(model.tokens, TEXTS)
        model.encode("compressor", padded.ids, padded.mask)[0].square().sum().backward()
        optimizer.step()
    assert len(hashed) == 2
    model.eval()
    assert model.fingerprint != before and len(hashed) == 3, "the base is not hashed again"


def test_a_check_costs_microseconds(loaded: ClaraModel):
    assert loaded.fingerprint
    start = time.process_time()
    for _ in range(200):
        assert loaded.fingerprint
    assert (time.process_time() - start) / 200 < 0.0005


def test_a_large_tokenizer_is_put_into_its_form_once(
    tiny_clara_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    expected = load(tiny_clara_folder).fingerprint
    monkeypatch.setattr(identity, "LARGE_TOKENIZER", 1000)
    monkeypatch.setattr(hashes.constants, "HF_HOME", str(tmp_path))
    made, real = [], identity._plain
    monkeypatch.setattr(identity, "_plain", lambda values: made.append("ends" in values) or real(values))
    for times, damage in ((1, None), (1, lambda text: text[:-1]), (2, lambda text: text.replace("a", "b")), (3, None)):
        assert load(tiny_clara_folder).fingerprint == expected and sum(made) == times
        (kept,) = (tmp_path / "clara" / "hashes").iterdir()
        if damage:
            kept.write_text(damage(kept.read_text()))
    other = load(tiny_clara_folder)
    other.tokens.tokenizer.add_tokens(["<one>"])
    assert other.fingerprint != expected and sum(made) == 4


def test_a_large_base_is_hashed_once_for_its_files(
    tiny_clara_folder: Path, base: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(hashes, "LARGE", 1000)
    monkeypatch.setattr(hashes.constants, "HF_HOME", str(tmp_path / "home"))
    first = load(tiny_clara_folder, base_model=base).fingerprint
    assert len(hashed) == 2 and len(list((tmp_path / "home" / "clara" / "hashes").iterdir())) == 1
    assert load(tiny_clara_folder, base_model=base).fingerprint == first and len(hashed) == 3
    changed = load(tiny_clara_folder, base_model=base)
    with torch.no_grad():
        norm(changed).weight.mul_(2)
    assert changed.fingerprint != first, "a change between loading and the first question is seen"
    weight("model.norm.weight")(base)
    assert load(tiny_clara_folder, base_model=base).fingerprint != first


def test_a_home_that_cannot_be_written_costs_time_only(
    tiny_clara_folder: Path, loaded: ClaraModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(hashes, "LARGE", 1000)
    (tmp_path / "home").write_text("a file, no folder")
    monkeypatch.setattr(hashes.constants, "HF_HOME", str(tmp_path / "home"))
    assert load(tiny_clara_folder).fingerprint == loaded.fingerprint

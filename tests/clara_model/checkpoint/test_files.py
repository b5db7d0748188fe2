"""Checkpoints: both layouts, saved and loaded, and everything that can be wrong with a folder, said in one sentence."""

import json
import logging
import os
import pickle
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import recorded
import small_model
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from clara_model import ClaraModel
from clara_model.checkpoint import devices, files
from clara_model.checkpoint.base_model import HUB_NAMES, load_base, resolve_base
from clara_model.checkpoint.config import ROLES
from clara_model.checkpoint.prompts import Prompt, PromptSet
from clara_model.errors import ClaraError

TEXTS, QUESTIONS = small_model.TEXTS, small_model.QUESTIONS
PUBLISHED = {role: name for name, role in files.PUBLISHED_ROLES.items()}
PROMPTS = PromptSet(answer=Prompt(system="Brief.", user=("Background:\n{memory}\n\nQuestion:{question}",)))
MODELING = """raise RuntimeError("never run")
class M:
    def answer(self, docs, query):
        prompt_system = 'Brief.'
        prompt_user = f"Background:\\n{docs}\\n\\nQuestion:{query}"
"""


def load(folder: Path | str, **options: Any) -> ClaraModel:
    return ClaraModel.from_pretrained(folder, **{"dtype": torch.float32, "device": "cpu", **options})


def write_published(model: ClaraModel, folder: Path, base: str, roles: tuple[str, ...] = ROLES) -> Path:
    """The model in the published layout; both encoder roles share the compressor's rows there."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        weight = model.base.get_input_embeddings().weight
        weight[model.tokens.memory_ids] = model.memory.rows["compressor"]
    adapters = {PUBLISHED[role]: {k: p.data for k, p in model.roles.parameters(role).items()} for role in roles}
    torch.save(adapters, folder / "adapters.pth")
    head = model.base.get_output_embeddings().weight
    ends = {
        "model.embed_tokens.weight": torch.nn.Parameter(weight.data),
        "lm_head.weight": torch.nn.Parameter(head.data),
    }
    torch.save(ends, folder / "decoder_first_last_layers.pth")
    config = {
        "decoder_model_name": base,
        "compr_rate": 12,
        "doc_max_length": 48,
        "lora": True,
        "lora_r": 4,
        "sep": True,
        "different_mem_tokens": True,
        "generation_top_k": 2,
        "training_stage": "stage2",
        "model_type": "CLaRa",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_clara.py").write_text(MODELING)
    return folder


@pytest.fixture(scope="session")
def published_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_model.build_model(base_folder)
    return write_published(model, tmp_path_factory.mktemp("published"), str(base_folder))


@pytest.fixture
def ours(tiny_clara_folder: Path, tmp_path: Path) -> Path:
    """A copy of a folder in this project's layout, to be damaged."""
    return Path(shutil.copytree(tiny_clara_folder, tmp_path / "ours"))


@pytest.fixture
def published(published_folder: Path, tmp_path: Path) -> Path:
    """A copy of a folder in the published layout, to be damaged."""
    return Path(shutil.copytree(published_folder, tmp_path / "published"))


def answers(model: ClaraModel) -> list[object]:
    """What a model says, to the bit."""
    texts, chosen = model.generate_from_questions(QUESTIONS, [TEXTS] * 3, 6)
    vectors = model.compress(TEXTS).vectors, model.encode_queries(QUESTIONS).vectors
    return [texts, chosen.tolist(), *(v.tolist() for v in vectors), model.fingerprint]


# -- saved = loaded ---------------------------------------------------------------------------------------------


def test_saved_equals_loaded(base_folder: Path, tmp_path: Path):
    model = small_model.build_model(base_folder)
    with torch.no_grad():
        model.base.get_output_embeddings().weight[model.tokens.added_ids].add_(0.5)
    model.save_pretrained(tmp_path / "one")
    again = load(tmp_path / "one")
    assert answers(again) == answers(model) and again.config == model.config
    again.save_pretrained(tmp_path / "two")
    for name in ("config.json", "adapters.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_a_folder_holds(tiny_clara_folder: Path):
    assert sorted(path.name for path in tiny_clara_folder.iterdir()) == ["adapters.safetensors", "config.json"]
    tensors = load_file(tiny_clara_folder / "adapters.safetensors")
    others = {key: tuple(tensor.shape) for key, tensor in tensors.items() if ".lora_" not in key}
    assert others == {
        "memory.compressor": (4, 32),
        "memory.query_reasoner": (4, 32),
        "embed_tokens.added": (7, 32),
        "lm_head.added": (7, 32),
    }
    assert len(tensors) - len(others) == 3 * 28


def test_published_to_ours(published_folder: Path, tmp_path: Path):
    first = load(published_folder)
    assert first.config.prompts == PROMPTS and not first.embeddings_changed
    first.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert answers(again) == answers(first) and again.config == first.config
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in (tmp_path, published_folder)]
    assert sizes[0] < sizes[1]


def test_published_equals_the_model_it_was_written_from(base_folder: Path, published_folder: Path):
    model = small_model.build_model(base_folder, prompts=PROMPTS)
    with torch.no_grad():
        model.memory.rows["query_reasoner"].copy_(model.memory.rows["compressor"])
        model.base.get_input_embeddings().weight[model.tokens.memory_ids] = model.memory.rows["compressor"]
    expected, found = model.compress(TEXTS).vectors, load(published_folder).compress(TEXTS).vectors
    assert torch.equal(found, expected)


@pytest.mark.parametrize("checkpoint", ["mistral-a/stage2", "qwen2-a/stage2"])
def test_recorded_checkpoint_to_ours(goldens: Path, tmp_path: Path, checkpoint: str):
    folder = recorded.need(goldens / "ckpts" / checkpoint)
    base = goldens / json.loads((folder / "config.json").read_text())["decoder_model_name"]
    first = load(folder, base_model=base, prompts=goldens / "prompts.json")
    first.save_pretrained(tmp_path)
    assert answers(load(tmp_path)) == answers(first)


def test_changed_embeddings_are_saved_whole(base_folder: Path, tmp_path: Path):
    """A published checkpoint may carry an embedding that training moved; then the base's is not enough."""
    model = small_model.build_model(base_folder)
    with torch.no_grad():
        model.base.get_input_embeddings().weight[100:110].add_(1.0)
    write_published(model, tmp_path / "published", str(base_folder))
    first = load(tmp_path / "published")
    assert first.embeddings_changed
    first.save_pretrained(tmp_path / "ours")
    tensors = load_file(tmp_path / "ours" / "adapters.safetensors")
    assert tensors["embed_tokens.weight"].shape == (407, 32) and "embed_tokens.added" not in tensors
    again = load(tmp_path / "ours")
    assert answers(again) == answers(first) and again.embeddings_changed


def test_rows_inside_the_adapters_file(published: Path):
    """Some published files carry the embeddings beside the LoRA weights and have no second file."""
    expected = answers(load(published))
    saved = torch.load(published / "adapters.pth", weights_only=True)
    saved["decoder_adapter"] |= torch.load(published / "decoder_first_last_layers.pth", weights_only=True)
    torch.save(saved, published / "adapters.pth")
    (published / "decoder_first_last_layers.pth").unlink()
    assert answers(load(published)) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype(tiny_clara_folder: Path, loaded: ClaraModel, dtype: torch.dtype):
    model = load(tiny_clara_folder, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    # half-precision latents are not interchangeable with float32's, so they are kept apart
    assert (model.fingerprint == loaded.fingerprint) == (dtype == torch.float32)
    found = model.compress(TEXTS).vectors
    assert found.dtype == dtype
    assert torch.nn.functional.cosine_similarity(found.float(), loaded.compress(TEXTS).vectors, dim=-1).min() > 0.99


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention(tiny_clara_folder: Path, loaded: ClaraModel, attention: str):
    model = load(tiny_clara_folder, attn_implementation=attention)
    assert model.base.config._attn_implementation == attention
    torch.testing.assert_close(model.compress(TEXTS).vectors, loaded.compress(TEXTS).vectors, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"attn_implementation": "fast"},
            "attn_implementation must be one of sdpa, eager, flex_attention, .* or a kernel such as .*, got 'fast'",
        ),
        *(
            ({"attn_implementation": name}, rf"{name} was asked for but needs a GPU \(here cpu\) and .* or use sdpa")
            for name in ("flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2")
        ),
        ({"attn_implementation": "somebody/flash-attn2"}, "attn_implementation must be one of"),
        ({"quantization": "int3"}, "quantization must be int8, int4 or None, got 'int3'"),
    ],
)
def test_options_that_cannot_be_served(tiny_clara_folder: Path, options: dict, message: str):
    with pytest.raises(ClaraError, match=message):
        load(tiny_clara_folder, device="cpu", **options)


@pytest.mark.parametrize("kind", devices.KINDS)
def test_quantization_without_bitsandbytes(tiny_clara_folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    """Here it is not installed, or too old."""
    monkeypatch.setattr(devices, "OLDEST", "1000.0")
    with pytest.raises(ClaraError, match=rf"{kind} needs bitsandbytes .*; install clara-integrations\[quantization\]"):
        load(tiny_clara_folder, quantization=kind)


@pytest.mark.parametrize("prompts", ["set", "file"])
def test_prompts_of_ones_own(tiny_clara_folder: Path, tmp_path: Path, prompts: str):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(PROMPTS.to_dict()))
    model = load(tiny_clara_folder, prompts=PROMPTS if prompts == "set" else path)
    assert model.config.prompts == PROMPTS


def test_loading_is_silent(
    published_folder: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(transformers_logging, "_tqdm_active", True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # on a terminal too
    transformers_logging.warning_once.cache_clear()  # said once in a process, perhaps by another test
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        load(published_folder)
    captured = capfd.readouterr()
    assert not caplog.records and captured.out == captured.err == ""
    assert transformers_logging.is_progress_bar_enabled()  # only while loading


def test_other_messages_still_come_through(
    base_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # as it is from some release on
    with caplog.at_level(logging.WARNING):
        small_model.build_model(base_folder)
        logging.getLogger("transformers.modeling_utils").warning("something else")
        logging.getLogger("transformers.modeling_utils").warning("The new embeddings will be initialized by you")
    shown = dict.fromkeys(record.getMessage() for record in caplog.records if "transformers" in record.name)
    assert list(shown) == ["something else", "The new embeddings will be initialized by you"]


# -- the base model ---------------------------------------------------------------------------------------------


def test_a_base_beside_the_checkpoint(base_folder: Path, loaded: ClaraModel, ours: Path, tmp_path: Path):
    """A relative base is found wherever the folder lies; saved elsewhere the full path is named."""
    shutil.copytree(base_folder, ours / "base")
    config = json.loads((ours / "config.json").read_text())
    (ours / "config.json").write_text(json.dumps(config | {"base_model": "./base"}))
    moved = ours.rename(tmp_path / "moved")
    model = load(moved)
    assert model.compress(TEXTS).vectors.equal(loaded.compress(TEXTS).vectors)
    model.save_pretrained(moved)
    assert json.loads((moved / "config.json").read_text())["base_model"] == "./base"
    model.save_pretrained(tmp_path / "elsewhere")
    named = json.loads((tmp_path / "elsewhere" / "config.json").read_text())["base_model"]
    assert named == str((moved / "base").resolve())
    assert load(tmp_path / "elsewhere").fingerprint == loaded.fingerprint


def test_base_model_overrides(ours: Path, base_folder: Path, loaded: ClaraModel):
    config = json.loads((ours / "config.json").read_text())
    (ours / "config.json").write_text(json.dumps(config | {"base_model": "/dead/path"}))
    with pytest.raises(ClaraError, match="'/dead/path' does not exist here; pass base_model= with its name"):
        load(ours)
    model = load(ours, base_model=base_folder)
    assert model.fingerprint == loaded.fingerprint and model.config.base_model == str(base_folder)


@pytest.mark.parametrize("prefix", ["/mnt/conductor/models/", "./", "../models/", "~/m/", "data/of/"])
def test_a_dead_path_is_mapped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str):
    for last, hub in HUB_NAMES.items():
        assert resolve_base(prefix + last, tmp_path) == hub
        assert f"by a path that is not here ({prefix}{last}); using {hub}" in caplog.text


@pytest.mark.parametrize("name", ["mistralai/Mistral-7B-Instruct-v0.2", "gpt2"])
def test_a_hub_name_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str):
    assert resolve_base(name, tmp_path) == name and not caplog.records


def test_a_folder_that_is_there_is_kept(tmp_path: Path):
    there = tmp_path / "Mistral-7B-Instruct-v0.2"
    there.mkdir()
    assert resolve_base(str(there), tmp_path / "x") == str(there)


def test_a_dead_base_path_in_a_published_folder(published: Path, monkeypatch: pytest.MonkeyPatch, base_folder: Path):
    config = json.loads((published / "config.json").read_text())
    dead = config | {"decoder_model_name": "/mnt/x/Mistral-7B-Instruct-v0.2"}
    (published / "config.json").write_text(json.dumps(dead))
    asked = []

    def instead(name: str, *options: Any) -> object:
        asked.append(name)
        return load_base(str(base_folder), *options)

    monkeypatch.setattr("clara_model.modeling.model.load_base", instead)
    assert load(published).config.base_model == asked[0] == "mistralai/Mistral-7B-Instruct-v0.2"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden": 64}, r"layers.0.self_attn.q_proj.lora_A.weight in .* has shape \(4, 32\), the base .* \(4, 64\)"),
        ({"layers": 3}, "adapter in .* lacks 'model.layers.2.* does the base model match"),
        ({"layers": 1}, "has 'model.layers.1.*which the base model has no place for; does the base model match"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["tiny_clara_folder", "published_folder"])
def test_a_base_of_another_size(
    request: pytest.FixtureRequest, tmp_path: Path, layout: str, sizes: dict[str, int], message: str
):
    base = small_model.save_base(tmp_path / "base", **sizes)
    with pytest.raises(ClaraError, match=message):
        load(request.getfixturevalue(layout), base_model=base)


def test_a_base_of_another_vocabulary(published_folder: Path, base_folder: Path, tmp_path: Path):
    tokenizer = small_model.build_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    shutil.copytree(base_folder, tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = small_model.build_base(vocabulary=401)
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(ClaraError, match=r"embed_tokens in .* has shape \(407, 32\), the base model needs \(408, 32\)"):
        load(published_folder, base_model=tmp_path / "base")


# -- damaged folders --------------------------------------------------------------------------------------------


def truncate(path: Path, keep: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize("name", ["config.json", "adapters.safetensors"])
def test_missing_files(ours: Path, name: str):
    (ours / name).unlink()
    message = (
        "holds no config.json" if name == "config.json" else "adapters.safetensors is missing; is the download complete"
    )
    with pytest.raises(ClaraError, match=message):
        load(ours)


@pytest.mark.parametrize("name", ["adapters.pth", "decoder_first_last_layers.pth", "modeling_clara.py"])
def test_missing_published_files(published: Path, name: str):
    (published / name).unlink()
    with pytest.raises(
        ClaraError, match=f"{name} is missing" if name.endswith("pth") else "pass prompts= with a prompts"
    ):
        load(published)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files(ours: Path, keep: float):
    truncate(ours / "adapters.safetensors", keep)
    with pytest.raises(ClaraError, match=r"adapters.safetensors is damaged \(.*\); download it again"):
        load(ours)


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["adapters.pth", "decoder_first_last_layers.pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_published_files(published: Path, name: str, keep: float, zipped: bool):
    values = torch.load(published / name, weights_only=True)
    torch.save(values, published / name, _use_new_zipfile_serialization=zipped)
    truncate(published / name, keep)
    with pytest.raises(ClaraError, match=rf"{name} is damaged.*(download it again|nothing in it was run)$"):
        load(published)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"<html>", b"\x80" + bytes(range(99))]
)
def test_files_that_are_something_else(published: Path, content: bytes):
    (published / "adapters.pth").write_bytes(content)
    with pytest.raises(ClaraError, match=r"adapters.pth is (not a PyTorch file; download it again|damaged)"):
        load(published)


class Witness:
    """Pickled, it is a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
@pytest.mark.parametrize("name", ["adapters.pth", "decoder_first_last_layers.pth"])
def test_pickled_code_is_refused_and_not_run(published: Path, tmp_path: Path, name: str, form: str):
    witness = tmp_path / "witness"
    values = torch.load(published / name, weights_only=True)
    values["encoder_adapter" if name == "adapters.pth" else "x"] = Witness(witness)
    if form == "pickle":
        (published / name).write_bytes(pickle.dumps({"x": Witness(witness)}))
    else:
        torch.save(values, published / name, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ClaraError, match=f"{name} .*pickled code.* it was refused and nothing in it was run"):
        load(published)
    assert not witness.exists()


def test_a_published_config_with_code_to_trust_is_not_run(published: Path):
    """The modeling file raises when run; ``auto_map`` names it, and loading works all the same."""
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_clara.CLaRa"}}))
    assert load(published).config.prompts == PROMPTS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], "must hold a dictionary of tensors, got list"),
        ({"encoder_adapter": torch.zeros(1)}, "must hold tensors by name"),
        ({"encoder_adapter": {"a": 1}}, "must hold tensors by name"),
        ({"my_adapter": {}}, "holds an unknown adapter 'my_adapter'; known are encoder_adapter"),
    ],
)
def test_adapters_of_another_form(published: Path, values: object, message: str):
    torch.save(values, published / "adapters.pth")
    with pytest.raises(ClaraError, match=message):
        load(published)


def edit(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "adapters.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapters.safetensors")


KEY = "generator.model.layers.0.mlp.up_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), "the generator adapter in .* lacks 'model.layers.0.mlp.up_proj.lora_B.weight'"),
        (lambda t: t.update({KEY: torch.zeros(3, 4)}), r"generator weight .* has shape \(3, 4\)"),
        (
            lambda t: t.update({"memory.compressor": torch.zeros(3, 32)}),
            r"adapters.safetensors holds 3 rows in memory.compressor, config.json asks for 4 memory .* \(48 // 12\)",
        ),
        (lambda t: t.update({"embed_tokens.added": torch.zeros(6, 32)}), r"embed_tokens in .* has shape \(6, 32\)"),
        (lambda t: t.pop("embed_tokens.added"), "holds no embedding rows of the added tokens"),
        (lambda t: t.update({"poet.x": torch.zeros(1)}), "holds 'poet.x', which belongs to none of the roles"),
    ],
)
def test_tensors_that_do_not_fit(ours: Path, change: Any, message: str):
    edit(ours, change)
    with pytest.raises(ClaraError, match=message):
        load(ours)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON .* is the download complete"),
        ('{"model_type": "llama"}', "is not a CLaRa or PISCO configuration; is this a base model's folder"),
        ('{"format": "clara-9"}', "has format 'clara-9'; this version reads 'clara-1'"),
        ('{"compr_rate": 16}', "lacks 'decoder_model_name'"),
    ],
)
def test_configs_that_cannot_be_read(ours: Path, published: Path, content: str, message: str):
    folder = published if "compr" in content else ours
    (folder / "config.json").write_text(content)
    with pytest.raises(ClaraError, match=message):
        load(folder)


# -- names ------------------------------------------------------------------------------------------------------


def test_a_subfolder_is_hinted_at(published_folder: Path, tmp_path: Path):
    for rate in (16, 128):
        shutil.copytree(published_folder, tmp_path / f"compression-{rate}")
    with pytest.raises(
        ClaraError, match=r"holds no config.json; pass subfolder= one of compression-128, compression-16$"
    ):
        load(tmp_path)
    assert load(tmp_path, subfolder="compression-16").config.compression_rate == 12


def test_a_local_folder_wins_over_the_hub(published: Path, monkeypatch: pytest.MonkeyPatch):
    (published.parent / "apple").mkdir()
    published.rename(published.parent / "apple" / "CLaRa-7B-E2E")
    monkeypatch.chdir(published.parent)
    monkeypatch.setattr(files, "snapshot_download", lambda *a, **k: pytest.fail("the hub was asked"))
    assert load("apple/CLaRa-7B-E2E").config.prompts == PROMPTS


@pytest.mark.parametrize("name", ["apple/CLaRa-7B-Nowhere", "nowhere-at-all"])
def test_a_hub_name_without_network(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ClaraError) as caught:
        load(name)
    message = str(caught.value)
    assert message.startswith(f"'{name}' is no local folder and could not be fetched from the hub (")
    assert "check the name and the network, or use a bundled model" in message and "\n" not in message


@pytest.mark.parametrize("name", ["a/b/c", "/no/such/folder", "with space"])
def test_names_that_are_nothing(name: str):
    with pytest.raises(ClaraError, match=f"'{name}' is neither a folder, a bundled model nor a hub name"):
        load(name)


def test_only_configurations_are_fetched_for_a_hint(
    published_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def fetch(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        asked.append(allow_patterns)
        for rate in (16, 128):
            shutil.copytree(published_folder, tmp_path / f"compression-{rate}", dirs_exist_ok=True)
        return str(tmp_path)

    monkeypatch.setattr(files, "snapshot_download", fetch)
    with pytest.raises(ClaraError, match="pass subfolder= one of compression-128, compression-16"):
        load("some/repository")
    assert asked == [["config.json", "*/config.json"]]
    asked.clear()
    load("some/repository", subfolder="compression-16")
    assert len(asked) == 2
    assert all(pattern in files.ABOUT or pattern.startswith("compression-16/") for pattern in asked[1])


@pytest.mark.parametrize("subfolder", [None, "compression-16"])
def test_the_card_and_the_licence_of_the_repository_are_fetched(
    published_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subfolder: str | None
):
    repository, fetched = tmp_path / "repository", tmp_path / "fetched"
    shutil.copytree(published_folder, repository / (subfolder or "."))
    (repository / "README.md").write_text("---\nlicense: apple-amlr\n---\n# A model\n")
    (repository / "LICENSE").write_text("Read me.\n")
    (repository / "picture.png").write_bytes(b"large")

    def fetch(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        names = [str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()]
        for wanted in filter_repo_objects(names, allow_patterns=allow_patterns):
            (fetched / wanted).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / wanted, fetched / wanted)
        return str(fetched)

    monkeypatch.setattr(files, "snapshot_download", fetch)
    assert load("some/repository", subfolder=subfolder).config.licence == "apple-amlr"
    assert (fetched / "LICENSE").is_file() and not (fetched / "picture.png").exists()


# -- PISCO ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_without_query_reasoner(base_folder: Path, tmp_path: Path):
    model = small_model.build_model(base_folder)
    write_published(model, tmp_path / "pisco", str(base_folder), roles=("generator", "compressor"))
    pisco = load(tmp_path / "pisco")
    assert set(pisco.config.roles) == {"generator", "compressor"}
    assert pisco.generate_from_text(QUESTIONS[:1], [TEXTS[:2]], 4)
    message = "this checkpoint has no query reasoner; it has generator, compressor"
    with pytest.raises(ClaraError, match=message):
        pisco.encode_queries(QUESTIONS)
    with pytest.raises(ClaraError, match=message):
        pisco.generate_from_questions(QUESTIONS[:1], [TEXTS], 4)
    pisco.save_pretrained(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.compress(TEXTS).vectors.equal(pisco.compress(TEXTS).vectors)
    with pytest.raises(ClaraError, match=message):
        again.encode_queries(QUESTIONS)


# -- writing ----------------------------------------------------------------------------------------------------


def test_an_interrupted_save_leaves_the_old_files(
    ours: Path, loaded: ClaraModel, other: ClaraModel, monkeypatch: pytest.MonkeyPatch
):
    def fail(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        other.save_pretrained(ours)
    assert load(ours).fingerprint == loaded.fingerprint


def test_push_to_hub_saves_and_warns_of_a_local_base(
    loaded: ClaraModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    pushed = {}

    class Api:
        def __init__(self, token: str | None) -> None:
            pushed["token"] = token

        def create_repo(self, name: str, **options: Any) -> None:
            pushed["repository"] = (name, options)

        def upload_folder(self, *, repo_id: str, folder_path: str) -> str:
            pushed["files"] = sorted(os.listdir(folder_path))
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("clara_model.checkpoint.hub.HfApi", Api)
    assert loaded.push_to_hub("me/mine", token="t") == "https://hub/me/mine"
    assert pushed == {
        "token": "t",
        "repository": ("me/mine", {"private": True, "exist_ok": True}),
        "files": ["adapters.safetensors", "config.json"],
    }
    assert "a base model that only this machine has" in caplog.text

"""A base with fused projections (Phi, the paper's second): trained, saved, loaded, read from a published folder."""

import json
from pathlib import Path

import pytest
import torch
import training_rows
from small_model import build_tokenizer
from transformers import Phi3Config, Phi3ForCausalLM

from clara_model import ClaraModel
from clara_model.checkpoint.config import FUSED_TARGETS
from clara_model.errors import ClaraError
from trainers.training.run import train


@pytest.fixture(scope="module")
def phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Phi."""
    folder, tokenizer = tmp_path_factory.mktemp("phi"), build_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    config = Phi3Config(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=2048, **sizes, **ends)
    Phi3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(phi: Path, stage1_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of stage 1."""
    folder = tmp_path_factory.mktemp("trained")
    return train(training_rows.config("pretrain", folder, pretrain=phi, dataset=stage1_file, max_steps=2))


def load(folder: Path, **options: object) -> ClaraModel:
    return ClaraModel.from_pretrained(folder, dtype=torch.float32, device="cpu", **options)


def test_fused_layers_get_adapters_that_train(trained: Path):
    model = load(trained)
    assert model.config.lora_targets == FUSED_TARGETS
    moved = [key for key, weight in model.roles.parameters("generator").items() if ".lora_B" in key and weight.any()]
    assert len(moved) == 4 * 2, "every layer of both decoder layers"
    texts = training_rows.documents(2)
    assert len(model.generate_from_text(["Who came?"], [texts], max_new_tokens=3)) == 1
    assert "lora_targets" in json.loads((trained / "config.json").read_text())


def test_a_published_folder_tells_its_layers_by_its_keys(trained: Path, phi: Path, tmp_path: Path):
    model = load(trained)
    values = {"decoder_model_name": str(phi), "compr_rate": 8, "doc_max_length": 32, "lora_r": 4}
    (tmp_path / "config.json").write_text(json.dumps({**values, "training_stage": "stage1"}))
    roles = {"encoder_adapter": "compressor", "decoder_adapter": "generator"}
    adapters = {name: dict(model.roles.parameters(role)) for name, role in roles.items()}
    torch.save(
        {name: {k: t.detach() for k, t in found.items()} for name, found in adapters.items()}, tmp_path / "adapters.pth"
    )
    rows = {
        f"{name}.weight": getattr(model.base, "get_" + kind)().weight.detach()
        for name, kind in (("model.embed_tokens", "input_embeddings"), ("lm_head", "output_embeddings"))
    }
    torch.save(rows, tmp_path / "decoder_first_last_layers.pth")
    published = load(tmp_path, prompts=model.config.prompts)
    assert set(published.config.lora_targets) == set(FUSED_TARGETS)
    for key, weight in published.roles.parameters("generator").items():
        assert torch.equal(weight, model.roles.parameters("generator")[key])


def test_layers_are_chosen_by_flag_and_missing_ones_named(
    phi: Path, base_folder: Path, stage1_file: Path, tmp_path: Path
):
    def run(name: str, base: Path, *targets: str) -> Path:
        values = {"pretrain": base, "dataset": stage1_file, "max_steps": 1, "lora_targets": targets}
        return train(training_rows.config("pretrain", tmp_path / name, **values))

    model = load(run("few", base_folder, "q_proj", "v_proj"))
    assert {key.split(".")[-3] for key in model.roles.parameters("compressor")} == {"q_proj", "v_proj"}
    with pytest.raises(
        ClaraError, match=r"Phi3ForCausalLM has no layers named q_proj.*use lora_targets qkv_proj, o_proj"
    ):
        run("other", phi, "q_proj", "o_proj")

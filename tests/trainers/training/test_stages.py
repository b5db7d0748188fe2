"""Where each stage starts: what is fresh, what is kept, what is copied."""

from pathlib import Path

import pytest
import torch
import training_rows

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from trainers.training.stages import starting_model


def weights(model: ClaraModel, role: str) -> dict[str, torch.Tensor]:
    named = model.trainable_parameters([role])
    return {name.replace(role, "role"): parameter.detach().clone() for name, parameter in named.items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def before(pretrained: Path) -> ClaraModel:
    return ClaraModel.from_pretrained(pretrained, dtype=torch.float32, device="cpu")


def start(stage: str, folder: Path, **values: object) -> ClaraModel:
    return starting_model(training_rows.config(stage, folder, dataset="unused.jsonl", **values), "cpu")


def test_pretrain_starts_fresh_and_reproducibly(base_folder: Path, tmp_path: Path):
    first, second = (start("pretrain", tmp_path, pretrain=base_folder, seed=7) for _ in range(2))
    assert first.config.roles == ("compressor", "generator") and first.config.stage == "pretrain"
    for role in first.config.roles:
        assert same(weights(first, role), weights(second, role))
    assert not same(
        weights(first, "compressor"), weights(start("pretrain", tmp_path, pretrain=base_folder), "compressor")
    )
    assert (first.config.memory_tokens, first.config.lora_rank, first.config.lora_alpha) == (4, 4, 8)


def test_instruct_keeps_the_compressor_and_starts_a_fresh_generator(
    pretrained: Path, before: ClaraModel, tmp_path: Path
):
    model = start("instruct", tmp_path, pretrain_checkpoint=pretrained)
    assert same(weights(model, "compressor"), weights(before, "compressor"))
    fresh = weights(model, "generator")
    assert all(not tensor.any() for name, tensor in fresh.items() if "lora_B" in name)
    kept = start("instruct", tmp_path, pretrain_checkpoint=pretrained, keep_generator=True)
    assert same(weights(kept, "generator"), weights(before, "generator"))


def test_end_to_end_copies_the_compressor(pretrained: Path, before: ClaraModel, tmp_path: Path):
    model = start("end_to_end", tmp_path, pretrain_checkpoint=pretrained)
    assert same(weights(model, "query_reasoner"), weights(before, "compressor")), "LoRA and memory rows"
    assert same(weights(model, "compressor"), weights(before, "compressor"))
    assert same(weights(model, "generator"), weights(before, "generator"))
    assert model.config.stage == "end_to_end" and model.config.top_k == 5


def test_a_checkpoint_with_a_query_reasoner_keeps_it(tiny_clara_folder: Path, tmp_path: Path):
    loaded = ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")
    model = start("end_to_end", tmp_path, pretrain_checkpoint=tiny_clara_folder)
    assert same(weights(model, "query_reasoner"), weights(loaded, "query_reasoner"))


@pytest.mark.parametrize("setting", [{"compress_rate": 16}, {"doc_max_length": 64}, {"lora_rank": 8}])
def test_sizes_that_differ_from_the_checkpoints_are_refused(pretrained: Path, tmp_path: Path, setting: dict):
    name, value = next(iter(setting.items()))
    with pytest.raises(ClaraError, match=f"{name} {value} was asked for, but checkpoint .* was made with .*; leave"):
        start("instruct", tmp_path, pretrain_checkpoint=pretrained, **setting)


def test_sizes_that_agree_may_be_given(pretrained: Path, tmp_path: Path):
    assert start("instruct", tmp_path, pretrain_checkpoint=pretrained, compress_rate=8).config.compression_rate == 8


def test_slots_that_do_not_fit_are_refused(pretrained: Path, tmp_path: Path):
    with pytest.raises(
        ClaraError, match=r"max_len 80 cannot hold 5 documents of 4 memory tokens each; pass --max_len 89"
    ):
        start("instruct", tmp_path, pretrain_checkpoint=pretrained, max_len=80)


@pytest.mark.parametrize("rate", [1, 3, 256])
def test_rates_to_the_ends(base_folder: Path, tmp_path: Path, rate: int):
    model = start(
        "pretrain", tmp_path, pretrain=base_folder, doc_max_length=256, compress_rate=rate, generation_top_k=1
    )
    assert model.config.memory_tokens == 256 // rate
    assert model.config.max_prompt_length >= 256 // rate + 1

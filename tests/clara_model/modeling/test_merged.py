"""Decoding with the generator's adapter merged into a copy of the weights."""

import copy
from pathlib import Path

import pytest
import small_model
import torch

from clara_model import ClaraModel
from clara_model.modeling import merged


@pytest.fixture
def half(tiny_clara_folder: Path) -> ClaraModel:
    """In bfloat16, with a generator that says something else than the base."""
    model = ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.bfloat16, device="cpu")
    return shifted(model)


def shifted(model: ClaraModel) -> ClaraModel:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.roles.parameters("generator").values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def logits(model: ClaraModel) -> torch.Tensor:
    with torch.no_grad(), model.roles.acting_as("generator"):
        return model.base(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.float()


def held(model: ClaraModel) -> int:
    """Bytes of the merged copy."""
    return sum(product.weight.nbytes for product in model.merged._products.values())


def test_the_products_are_the_same_to_rounding(half: ClaraModel):
    plain = logits(half)
    with half.merged.in_use():
        found = logits(half)
    exact = logits(copy.deepcopy(half).float())
    assert not torch.equal(found, plain)
    assert (found - exact).norm() <= 1.5 * (plain - exact).norm()
    assert torch.equal(logits(half), plain), "outside the block nothing is merged"


def test_the_copy_follows_the_weights(half: ClaraModel):
    answer = half.generate(small_model.QUESTIONS[:1], [half.compress(small_model.TEXTS[:1])], max_new_tokens=4)
    products = half.merged._products
    assert products and held(half) == sum(layer.base_layer.weight.nbytes for layer in half.roles.layers().values())
    with half.merged.in_use():
        before = logits(half)
    assert half.merged._products is products, "made once"
    with torch.no_grad():
        next(iter(half.roles.parameters("generator").values())).add_(0.5)
    with half.merged.in_use():
        assert not torch.equal(logits(half), before)
    assert answer.texts


def test_latents_and_fingerprint_do_not_move(half: ClaraModel):
    before, latents = half.fingerprint, half.compress(small_model.TEXTS)
    half.generate(small_model.QUESTIONS[:1], [latents[:1]], max_new_tokens=2)
    assert held(half) and half.fingerprint == before
    assert torch.equal(half.compress(small_model.TEXTS).vectors, latents.vectors)


def test_no_copy_in_training_past_the_bound_and_in_float32_where_the_base_generates_itself(
    half: ClaraModel, tiny_clara_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    for attention, copied in (("sdpa", True), ("eager", False)):
        options = {"dtype": torch.float32, "device": "cpu", "attn_implementation": attention}
        whole = shifted(ClaraModel.from_pretrained(tiny_clara_folder, **options))
        with whole.merged.in_use():
            assert bool(held(whole)) == copied
    with half.train().merged.in_use():
        assert not held(half)
    monkeypatch.setattr(merged, "MERGED_BYTES", 1000)
    with half.eval().merged.in_use():
        assert not held(half)


def test_a_copy_of_the_model_merges_for_itself(half: ClaraModel):
    with half.merged.in_use():
        expected = logits(half)
    other = copy.deepcopy(half)
    assert not held(other)
    with other.merged.in_use():
        assert torch.equal(logits(other), expected)
    assert other.merged._products is not half.merged._products


def test_a_gpu_gives_half_of_its_free_memory_and_no_less_than_the_bound(monkeypatch: pytest.MonkeyPatch):
    free = {0: 40 << 30, 1: 1 << 30}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 80 << 30))
    roomy, full, cpu = torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")
    assert merged.most_bytes({roomy}) == 20 << 30
    assert all(merged.most_bytes(where) == merged.MERGED_BYTES for where in ({full}, {cpu}, {roomy, full}))

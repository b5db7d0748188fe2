"""The plain decoder against transformers' own classes, in float32 and with float16 for single positions."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import small_model
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.generation.streamers import BaseStreamer

from clara_model import ClaraModel
from clara_model.modeling import decoder, merged
from clara_model.modeling.decoder import FUSED, PlainDecoder, Product, Room, fits

SIZES = {
    "vocab_size": 61, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 256,
}  # fmt: skip
SCALED = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0}
SCALED |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
BASES: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=SCALED)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
}


def plain(base: nn.Module, quick: bool = False) -> PlainDecoder:
    """A decoder of a base's own weights."""
    products = {
        f"{number}.{group[0]}": Product(
            torch.cat([getattr(getattr(layer, part), name).weight.detach() for name in group]), base.dtype, quick
        )
        for number, layer in enumerate(base.model.layers)
        for part, groups in (("self_attn", FUSED[:2]), ("mlp", FUSED[2:]))
        for group in groups
    }
    return PlainDecoder(base, products, Product(base.lm_head.weight.detach(), base.dtype, quick), quick)


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(3)
    found = BASES[request.param]().eval()
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + ("norm" in name))
    return found.requires_grad_(False)


@torch.no_grad()
def test_logits_are_those_of_the_base(base: nn.Module):
    """A prompt of several rows with padding, then a step, then several positions at once."""
    assert fits(base)
    ids = torch.randint(0, 61, (3, 14))
    mask = torch.ones(3, 14, dtype=torch.long)
    mask[0, :5] = mask[2, :1] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    own, ours, found = None, plain(base), plain(base).cache()
    for start, end in ((0, 9), (9, 10), (10, 14)):
        part = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
        expected = base(input_ids=ids[:, start:end], past_key_values=own, use_cache=True, **part)
        made = ours.forward(input_ids=ids[:, start:end], past_key_values=found, **part)
        real = mask[:, start:end].bool()
        torch.testing.assert_close(made.logits[real], expected.logits[real], atol=2e-4, rtol=1e-4)
        own = expected.past_key_values
    assert found.get_seq_length() == 14


@torch.no_grad()
def test_several_positions_behind_others_see_no_later_one(base: nn.Module):
    ids, ours = torch.randint(0, 61, (1, 12)), plain(base)
    whole, found = ours.forward(input_ids=ids).logits, ours.cache()
    parts = [ours.forward(input_ids=part, past_key_values=found).logits for part in ids.split(5, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=2e-4, rtol=1e-4)
    assert ours.forward(input_ids=ids, logits_to_keep=2).logits.shape == (1, 2, 61)


@pytest.mark.parametrize(
    "change",
    [{"sliding_window": 8}, {"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}],
    ids=lambda change: next(iter(change)),
)
def test_other_architectures_generate_by_themselves(change: dict[str, object]):
    kind = (MistralForCausalLM, MistralConfig) if "sliding_window" in change else (LlamaForCausalLM, LlamaConfig)
    base = kind[0](kind[1](**{**SIZES, **change}))
    assert not fits(base)
    eager = LlamaForCausalLM._from_config(LlamaConfig(**SIZES), attn_implementation="eager")
    assert not fits(eager)


# -- through ClaraModel.generate ---------------------------------------------------------------------------------


class Ids(BaseStreamer):
    def __init__(self) -> None:
        self.ids: list[int] = []

    def put(self, value: Tensor) -> None:
        if value.dim() == 1:
            self.ids += value.tolist()

    def end(self) -> None: ...


def generated(model: ClaraModel, count: int = 1, **options: object) -> list[list[int]]:
    latents = [model.compress(small_model.TEXTS[:2]), model.compress(small_model.TEXTS[2:3])]
    latents.append(model.compress(small_model.TEXTS[1:4]))
    torch.manual_seed(5)
    made = model.generate(small_model.QUESTIONS[:count], latents[:count], **{"max_new_tokens": 12, **options})
    return [row[:end] for row, end in zip(made.ids.tolist(), made.completion_tokens, strict=True)]


WAYS = [{}, {"do_sample": True, "top_k": 20}, {"num_beams": 3}, {"stop": ["e"]}, {"repetition_penalty": 1.4}]
WAYS += [{"use_cache": False}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 3}]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_of_generating_writes_what_transformers_writes(
    model: ClaraModel, way: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    count = 1 if "prompt_lookup_num_tokens" in way else 3
    found = generated(model, count, **way)
    assert (model.merged._decoder is None) == bool({"use_cache", "cache_implementation"} & set(way))
    assert "forward" not in vars(model.base)
    monkeypatch.setattr(merged, "fits", lambda base: False)
    other = copy.deepcopy(model)
    assert generated(other, count, **way) == found
    assert other.merged._decoder is None


def test_streamed_is_plain_and_batched_is_one_by_one(model: ClaraModel):
    together, streamer = generated(model, 3), Ids()
    assert generated(model, 1, streamer=streamer) == together[:1] == [streamer.ids[: len(together[0])]]
    latents = [model.compress(small_model.TEXTS[:2]), model.compress(small_model.TEXTS[2:3])]
    for place in (0, 1):
        alone = model.generate(small_model.QUESTIONS[place : place + 1], [latents[place]], max_new_tokens=12)
        assert alone.ids[0].tolist()[: alone.completion_tokens[0]] == together[place]


def test_what_failed_leaves_the_base_as_it_was(model: ClaraModel):
    with pytest.raises(ZeroDivisionError), model.merged.in_use():
        assert "forward" in vars(model.base)
        raise ZeroDivisionError
    assert "forward" not in vars(model.base)


@pytest.mark.parametrize("place", ["norm", "head", "projection", "adapter"])
def test_a_changed_weight_is_noticed(model: ClaraModel, place: str):
    layer = model.base.model.layers[1]
    weights = {
        "norm": layer.input_layernorm.weight, "head": model.base.lm_head.weight,
        "projection": layer.mlp.up_proj.base_layer.weight, "adapter": layer.mlp.up_proj.lora_B["generator"].weight,
    }  # fmt: skip
    ids = torch.tensor([[4, 5, 6]])
    for _ in range(2):
        with torch.no_grad(), model.roles.acting_as("generator"):
            expected = model.base(input_ids=ids).logits
            with model.merged.in_use():
                torch.testing.assert_close(model.base(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
            weights[place].add_(0.3)


# -- float16 for one position ------------------------------------------------------------------------------------


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "half_is_faster", lambda dtype: dtype != torch.float16)


@torch.no_grad()
def test_single_positions_alone_are_multiplied_in_float16(base: nn.Module, faster: None):
    quick, exact, ids = plain(base, quick=True), plain(base), torch.randint(0, 61, (1, 9))
    caches = quick.cache(), exact.cache()
    made, expected = (
        one.forward(input_ids=ids, past_key_values=kept) for one, kept in zip((quick, exact), caches, strict=True)
    )
    assert torch.equal(made.logits, expected.logits)
    step = torch.tensor([[7]])
    made, expected = (
        one.forward(input_ids=step, past_key_values=kept).logits
        for one, kept in zip((quick, exact), caches, strict=True)
    )
    assert not torch.equal(made, expected)
    assert (made - expected).norm() < 5e-3 * expected.norm()


def test_numbers_beyond_float16_are_multiplied_as_they_are(faster: None):
    small, large = torch.full((3, 4), 2.0), torch.full((3, 4), 70000.0)
    assert Product(small, torch.float32, quick=True).half is not None
    assert Product(large, torch.float32, quick=True).half is None
    assert Product(large, torch.float32, quick=True)(torch.ones(1, 4), True).tolist() == [[280000.0] * 3]


@pytest.mark.skipif(not decoder.packs(torch.float32), reason="weights are packed with AVX-512 alone")
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_packed_weight_multiplies_as_it_is_and_what_the_base_uses_is_not_copied(dtype: torch.dtype, close: float):
    weight = (torch.randn(70, 37) / 6).to(dtype)
    packed, shared = Product(weight, dtype), Product(weight, dtype, own=False)
    assert packed.weight.layout != torch.strided and shared.weight is weight
    for shape in ((1, 1, 37), (2, 1, 37), (3, 14, 37)):
        x = torch.randn(shape)
        torch.testing.assert_close(packed(x, False), x.to(dtype).float() @ weight.float().T, atol=close, rtol=close)


@torch.no_grad()
def test_a_state_beyond_float16_is_computed_again_and_float16_given_up(
    base: nn.Module, faster: None, caplog: pytest.LogCaptureFixture
):
    base.model.layers[1].mlp.up_proj.weight.mul_(3000)
    base.model.layers[1].mlp.gate_proj.weight.mul_(100)
    quick, exact = plain(base, quick=True), plain(base)
    caches = quick.cache(), exact.cache()
    with caplog.at_level(logging.INFO, logger=decoder.__name__):
        for ids in (torch.tensor([[3, 9, 4]]), torch.tensor([[8]]), torch.tensor([[2]])):
            made, expected = (
                one.forward(input_ids=ids, past_key_values=kept).logits
                for one, kept in zip((quick, exact), caches, strict=True)
            )
            assert torch.equal(made, expected)
    assert len(caplog.records) == 1 and "float16" in caplog.text


def test_whether_float16_is_faster_is_measured_once():
    decoder.half_is_faster.cache_clear()
    first = [decoder.half_is_faster(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    assert first[2] is False and all(isinstance(one, bool) for one in first)
    assert [decoder.half_is_faster(dtype) for dtype in (torch.float32, torch.bfloat16)] == first[:2]
    assert decoder.half_is_faster.cache_info().misses == 3


def test_a_float32_base_reads_quickly_in_the_machines_own_half_type(
    model: ClaraModel, faster: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(merged, "default_dtype", lambda device: torch.bfloat16)
    latents = model.compress(small_model.TEXTS[:2])
    for quick, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        model.merged.quick = quick
        model.generate(small_model.QUESTIONS[:1], [latents], max_new_tokens=2)
        products = model.merged._products.values()
        assert {product.weight.dtype for product in products} == {dtype}
        assert all((product.half is not None) == quick for product in products)
    assert torch.equal(latents.vectors, model.compress(small_model.TEXTS[:2]).vectors)


@pytest.mark.parametrize(("options", "quick"), [({"dtype": "float32"}, False), ({"dtype": "bfloat16"}, True)])
def test_the_option_reaches_the_decoder(tiny_clara_folder: Path, options: dict[str, str], quick: bool):
    loaded = ClaraModel.from_pretrained(tiny_clara_folder, device="cpu", **options)
    assert loaded.merged.quick == quick == copy.deepcopy(loaded).merged.quick
    assert not ClaraModel.from_pretrained(tiny_clara_folder, device="cpu", decoding="exact", **options).merged.quick


def test_the_cache_grows_and_takes_up_what_was_reordered():
    room, expected = Room(), torch.empty(2, 3, 0, 4)
    for count in (5, 1, 1, 90, 1):
        new = torch.randn(2, 3, count, 4)
        keys, values = room.update(new, new + 1)
        expected = torch.cat([expected, new], dim=2)
        assert torch.equal(keys, expected) and torch.equal(values, expected + 1)
        room.reorder_cache(torch.tensor([1, 0]))
        expected = expected[[1, 0]]
    room.back_to(3)
    assert room.get_seq_length() == 3 and torch.equal(room.update(new, new)[0][:, :, :3], expected[:, :, :3])

"""A base in 8 or 4 bits on the CPU: its passes are those of the weights that it keeps, and no pass changes these."""

from pathlib import Path

import pytest
import small_model
import torch

from clara_model import ClaraModel
from clara_model.checkpoint import devices
from clara_model.errors import ClaraError

bitsandbytes = pytest.importorskip("bitsandbytes")
TEXTS, QUESTION = small_model.TEXTS, small_model.QUESTIONS[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose layers are whole blocks of 64."""
    place = tmp_path_factory.mktemp("quantized")
    small_model.build_model(small_model.save_base(place / "base", hidden=64)).save_pretrained(place / "clara")
    return place / "clara"


def load(folder: Path, kind: str | None, dtype: torch.dtype = torch.float32) -> ClaraModel:
    return ClaraModel.from_pretrained(folder, dtype=dtype, device="cpu", quantization=kind)


def with_weights_of(small: ClaraModel, folder: Path) -> ClaraModel:
    """An unquantized model that has the values which a quantized one keeps."""
    model = load(folder, None)
    kept = small.roles.layers()
    for name, layer in model.roles.layers().items():
        weight = kept[name].base_layer.weight
        with torch.no_grad():
            layer.base_layer.weight.copy_(bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state))
    return model


def test_passes_are_those_of_the_weights_it_keeps(folder: Path):
    small = load(folder, "int4")
    same, other = with_weights_of(small, folder), load(folder, None)
    layers = small.roles.layers().values()
    assert len(layers) == 14 and all(isinstance(layer.base_layer, bitsandbytes.nn.Linear4bit) for layer in layers)
    found, expected = small.compress(TEXTS).vectors, same.compress(TEXTS).vectors
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert (other.compress(TEXTS).vectors - expected).abs().max() > 1e-2, "rounding to 4 bits can be seen"
    prompts = [small.tokens.tokenizer(QUESTION)["input_ids"]]
    written = [model.generate_plain(prompts, max_new_tokens=8).ids for model in (small, same)]
    assert torch.equal(*written)


def test_eight_bits_are_near_the_weights(folder: Path):
    found, expected = (load(folder, kind).compress(TEXTS).vectors.flatten(1) for kind in ("int8", None))
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", devices.KINDS)
def test_no_pass_changes_the_weights(folder: Path, kind: str, dtype: torch.dtype):
    """bitsandbytes packs them at the first pass without gradients, on CPUs with bfloat16."""
    model = load(folder, kind, dtype)
    first = model.compress(TEXTS)
    model.identity.forget()  # hashes the base anew
    again = model.compress(TEXTS)
    assert torch.equal(first.vectors, again.vectors) and first.fingerprint == again.fingerprint
    assert torch.equal(load(folder, kind, dtype).compress(TEXTS).vectors, first.vectors)


@pytest.mark.parametrize("kind", devices.KINDS)
def test_its_latents_are_another_models(folder: Path, kind: str):
    small, whole = load(folder, kind), load(folder, None)
    latents = small.compress(TEXTS)
    with pytest.raises(ClaraError, match="another"):
        whole.check_latents(latents)


def test_its_checkpoint_is_that_of_the_adapters(folder: Path, tmp_path: Path):
    load(folder, "int4").save_pretrained(tmp_path)
    expected = load(folder, None).compress(TEXTS).vectors
    assert torch.equal(load(tmp_path, None).compress(TEXTS).vectors, expected)

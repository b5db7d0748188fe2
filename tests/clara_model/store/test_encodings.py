import itertools

import pytest
import torch

from clara_model.errors import ClaraError
from clara_model.store.encodings import ENCODINGS, EncodedBlock, decode, encode, encoded_bytes


def test_sizes_and_types():
    shapes, dtypes = [(1, 1), (3, 5), (16, 64)], [torch.float32, torch.bfloat16, torch.float16]
    for encoding, shape, dtype in itertools.product(ENCODINGS, shapes, dtypes):
        vector = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        made = encode(vector, encoding)
        assert len(made.data) == encoded_bytes(made.encoding, *shape)
        again = decode(made)
        assert (again.dtype, again.shape) == (dtype, shape)
        assert encoding != "exact" or torch.equal(again, vector)


def test_whole_numbers_by_hand():
    vector = torch.tensor([[1.0, -7.0, 3.4], [0.0, 0.0, 0.0]])
    assert decode(encode(vector, "int4")).tolist() == [[1.0, -7.0, 3.0], [0.0, 0.0, 0.0]]
    assert decode(encode(vector * 127 / 7, "int8"))[0].tolist() == pytest.approx([18.0, -127.0, 62.0])


def test_each_vector_has_its_own_scale():
    vector = torch.tensor([[1000.0, -500.0], [0.001, 0.0005]])
    again = decode(encode(vector, "int8"))
    assert again[1].tolist() == pytest.approx([0.001, 0.0005], rel=0.01)


def test_non_contiguous_and_gradient():
    vector = torch.randn(8, 4).T.requires_grad_()
    assert torch.equal(decode(encode(vector, "exact")), vector)


def test_not_finite():
    for bad in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ClaraError, match="not finite"):
            encode(torch.tensor([[1.0, bad]]), "exact")


def test_a_large_sum_is_still_finite():
    assert torch.equal(decode(encode(torch.full((2, 2), 3e38), "exact")), torch.full((2, 2), 3e38))


def test_too_large_for_float16():
    with pytest.raises(ClaraError, match="65504"):
        encode(torch.tensor([[1e6]]), "float16")


def test_another_type():
    with pytest.raises(TypeError, match="float64"):
        encode(torch.zeros(1, 1, dtype=torch.float64), "exact")


@pytest.mark.parametrize(
    "encoded", [EncodedBlock(b"123", "int8", "float32", 1, 1), EncodedBlock(b"1234", "x", "float32", 1, 1)]
)
def test_bytes_that_cannot_be_a_block(encoded: EncodedBlock):
    with pytest.raises(ValueError, match=r"cannot be|unknown"):
        decode(encoded)

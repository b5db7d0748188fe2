"""Latents: shape checks, slicing, stacking, quantising, and files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clara_model.errors import ClaraError
from clara_model.latents import Latents


def make(count: int = 3, fingerprint: str = "abc") -> Latents:
    torch.manual_seed(count)
    return Latents(torch.randn(count, 2, 4), tuple(range(10, 10 + count)), fingerprint)


@pytest.mark.parametrize(("shape", "lengths"), [((3, 4), (1, 2, 3)), ((3, 2, 4), (1, 2)), ((1, 3, 2, 4), (1,))])
def test_shape_is_checked(shape: tuple[int, ...], lengths: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"vectors must be \[N, M, D\] with N lengths"):
        Latents(torch.zeros(shape), lengths, "f")


def test_length_and_bytes():
    assert len(make()) == 3 and make().nbytes == 3 * 2 * 4 * 4
    assert make().to(dtype=torch.bfloat16).nbytes == 3 * 2 * 4 * 2


def test_a_number_gives_one_block():
    latents = make()
    assert torch.equal(latents[1], latents.vectors[1]) and torch.equal(latents[-1], latents.vectors[2])


@pytest.mark.parametrize(
    ("index", "rows"),
    [(slice(0, 2), [0, 1]), (slice(None, None, -1), [2, 1, 0]), ([2, 0], [2, 0]), ([1, 1], [1, 1]), ([], [])],
)
def test_slices_and_lists_give_latents(index: slice | list[int], rows: list[int]):
    latents = make()
    picked = latents[index]
    assert torch.equal(picked.vectors, latents.vectors[rows].view(len(rows), 2, 4))
    assert picked.lengths == tuple(10 + row for row in rows) and picked.fingerprint == "abc"


def test_stack_keeps_order():
    a, b = make(2), make(3)
    both = Latents.stack([a, b])
    assert torch.equal(both.vectors, torch.cat([a.vectors, b.vectors])) and both.lengths == a.lengths + b.lengths


def test_stack_refuses_other_checkpoints():
    with pytest.raises(ClaraError, match="latents of different checkpoints cannot be mixed: abc, xyz"):
        Latents.stack([make(), make(fingerprint="xyz")])


def test_stack_of_nothing():
    with pytest.raises(ValueError, match="nothing to stack"):
        Latents.stack([])


def test_to_and_detach():
    vectors = torch.zeros(1, 1, 2, requires_grad=True)
    latents = Latents(vectors, (1,), "f")
    assert not latents.detach().vectors.requires_grad and latents.vectors.requires_grad
    assert latents.to(dtype=torch.float64).vectors.dtype == torch.float64
    assert latents.to(dtype=torch.float64).lengths == (1,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_saved_and_loaded(tmp_path: Path, count: int, dtype: torch.dtype):
    latents = make(count).to(dtype=dtype)
    latents.save(tmp_path / "a.safetensors")
    again = Latents.load(tmp_path / "a.safetensors")
    assert again.vectors.dtype == dtype and torch.equal(again.vectors, latents.vectors)
    assert again.lengths == latents.lengths and again.fingerprint == "abc"


def test_a_slice_can_be_saved(tmp_path: Path):
    make()[1:].save(tmp_path / "a.safetensors")
    assert Latents.load(tmp_path / "a.safetensors").lengths == (11, 12)


def test_files_that_are_no_latents(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ClaraError, match="cannot be read as latents"):
        Latents.load(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ClaraError, match="cannot be read as latents"):
        Latents.load(path)
    save_file({"weights": torch.zeros(1)}, path)
    with pytest.raises(ClaraError, match="holds no latents; it has weights"):
        Latents.load(path)
    make().save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ClaraError, match="cannot be read as latents"):
        Latents.load(path)


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vectors", [torch.ones(2, 3, 4, dtype=torch.long), torch.ones(2, 3, 4).bool(), [[[1.0]]], None]
)
def test_only_floats(vectors: object):
    with pytest.raises(TypeError, match=r"vectors must be a tensor of floats, got "):
        Latents(vectors, (1, 1), "abc")


@pytest.mark.parametrize(
    "index", [True, [True, False, True], torch.tensor([True, False, True]), np.array([True, False, True])]
)
def test_truth_values_pick_no_rows(index: object):
    with pytest.raises(TypeError, match="expected row numbers, got a truth value"):
        make()[index]


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0]), np.array([2, 0]), (2, 0)])
def test_whole_numbers_of_any_type_pick_rows(index: object):
    assert make()[index].lengths == (12, 10)


@pytest.mark.parametrize("index", [[0.0], ["0"], [None]])
def test_what_is_no_row_number(index: list[object]):
    with pytest.raises(TypeError):
        make()[index]


@pytest.mark.parametrize(
    "change",
    [
        {"vectors": torch.ones(3, 8)},
        {"vectors": torch.ones(3, 2, 4, dtype=torch.int32)},
        {"vectors": torch.ones(2, 2, 4)},
        {"lengths": torch.ones(3, 1, dtype=torch.long)},
        {"lengths": torch.ones(3)},
        {"lengths": torch.tensor([1, -1, 1])},
        {"windows": torch.ones(3, 2, dtype=torch.long)},
        {"windows": torch.ones(2, 4, dtype=torch.long)},
        {"windows": torch.ones(3)},
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, change: dict[str, torch.Tensor]):
    tensors = {"vectors": torch.ones(3, 2, 4), "lengths": torch.ones(3, dtype=torch.long)}
    save_file(tensors | change, tmp_path / "x.safetensors", metadata={"fingerprint": "abc"})
    with pytest.raises(ClaraError, match=r"x.safetensors holds no latents: "):
        Latents.load(tmp_path / "x.safetensors")

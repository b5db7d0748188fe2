"""Properties of latents that hold for any shape, type and number: a file gives them back, a damaged one is refused."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clara_model.errors import ClaraError
from clara_model.latents import Latents


@st.composite
def latents(draw: st.DrawFn) -> Latents:
    """Any latents: no document, no number, numbers that are not finite, any fingerprint."""
    shape = draw(st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(1, 5)))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**32))))
    flat = numbers.view(-1)
    for at in draw(st.lists(st.integers(0, max(0, len(flat) - 1)), max_size=len(flat))):
        flat[at] = draw(st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 1e-40, 3e38]))
    lengths = draw(st.lists(st.integers(0, 2**31), min_size=shape[0], max_size=shape[0]))
    return Latents(numbers.to(dtype), tuple(lengths), draw(st.text("0123456789abcdef", min_size=1, max_size=16)))


def bits(vectors: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return vectors.dtype, tuple(vectors.shape), vectors.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("latents") / "kept.safetensors"


@given(kept=latents())
def test_a_file_gives_back_every_bit(file: Path, kept: Latents):
    kept.save(file)
    found = Latents.load(file)
    assert bits(found.vectors) == bits(kept.vectors)
    assert (found.lengths, found.fingerprint) == (kept.lengths, kept.fingerprint)


@given(kept=latents(), share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_anywhere_is_refused(file: Path, kept: Latents, share: float):
    kept.save(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ClaraError, match=file.name):
        Latents.load(file)


@given(data=st.binary(max_size=200))
def test_any_other_file_is_refused(file: Path, data: bytes):
    file.write_bytes(data)
    with pytest.raises(ClaraError, match=file.name):
        Latents.load(file)


@given(kept=latents(), data=st.data())
def test_picked_blocks_are_the_blocks_picked(kept: Latents, data: st.DataObject):
    rows = data.draw(st.lists(st.integers(0, len(kept) - 1), max_size=6)) if len(kept) else []
    picked = kept[rows]
    assert [bits(picked[n]) for n in range(len(rows))] == [bits(kept[row]) for row in rows]
    assert picked.lengths == tuple(kept.lengths[row] for row in rows)


@given(kept=latents(), cuts=st.lists(st.integers(0, 4), max_size=3).map(sorted))
def test_parts_stacked_are_the_whole(kept: Latents, cuts: list[int]):
    ends = [0, *(min(cut, len(kept)) for cut in cuts), len(kept)]
    parts = [kept[start:end] for start, end in pairwise(ends)]
    whole = Latents.stack(parts)
    assert bits(whole.vectors) == bits(kept.vectors)
    assert (whole.lengths, whole.fingerprint) == (kept.lengths, kept.fingerprint)


@given(kept=latents(), other=latents())
def test_latents_of_two_checkpoints_are_never_mixed(kept: Latents, other: Latents):
    if kept.fingerprint != other.fingerprint:
        with pytest.raises(ClaraError, match="different checkpoints"):
            Latents.stack([kept, other])

import random

import pytest
import torch

from clara_model.errors import ClaraError
from clara_model.inference import batching
from clara_model.inference.batching import Batches, is_out_of_memory, plan_batches


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage takes long and shows nothing here."""
    monkeypatch.setattr(batching, "release_memory", lambda: None)


@pytest.mark.parametrize("max_tokens", [1, 50, 400, 10**6])
@pytest.mark.parametrize("max_items", [None, 1, 3])
def test_every_item_once_and_within_the_budget(max_tokens, max_items):
    draw = random.Random(0)
    lengths = [draw.randint(1, 100) for _ in range(57)]
    batches = plan_batches(lengths, max_tokens, max_items)
    assert sorted(index for batch in batches for index in batch) == list(range(57))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens
        assert max_items is None or len(batch) <= max_items


def test_like_lengths_go_together():
    assert plan_batches([10, 100, 11, 99], 200) == [[1, 3], [2, 0]]


def test_no_items_no_batches():
    assert plan_batches([], 100) == []


class Device:
    """Holds ``room`` items at a time."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.sizes, self.done = room, [], []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory.")

    def run(self, planned) -> None:
        batches = Batches(planned, "document")
        for part in batches:
            self.sizes.append(len(part))
            try:
                if len(part) > self.room:
                    raise self.error
            except (RuntimeError, MemoryError) as error:
                batches.retry(part, error)
            else:
                self.done.extend(part)


@pytest.mark.parametrize("room", [1, 2, 3, 7, 16])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory"), MemoryError("x")]
)
def test_out_of_memory_goes_on_with_smaller_batches(room, error):
    device = Device(room, error)
    device.run([list(range(16)), list(range(16, 20))])
    assert device.done == list(range(20))
    assert sum(size > room for size in device.sizes) <= 4, "a size that failed is not tried again"


def test_one_item_that_does_not_fit_is_a_clear_error():
    with pytest.raises(ClaraError, match=r"not enough memory for one document .*quantization"):
        Device(0).run([[0, 1, 2]])


def test_other_errors_are_not_retried():
    device = Device(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        device.run([[0, 1]])
    assert device.sizes == [2]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, other allocations: 1 GB)."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: 5 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 5 bytes."),
    ],
)
def test_what_devices_say_when_memory_ends(error: RuntimeError):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("out of memory"), KeyError("x")])
def test_what_is_another_error(error: Exception):
    assert not is_out_of_memory(error)

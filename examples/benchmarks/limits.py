"""What the machine allows a decoding step: its bare matrix-vector products; its weights' bytes at the memory's speed.

Used by `inference.py` and `probe.py`. Bare products of whole passes are `random_model.matrix_products`.
"""

import time

import torch
from torch import Tensor, nn

READ_BYTES = 512 << 20
"""Of memory that is read to measure its speed: far more than any cache holds."""


def read_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose weights a decoding step reads, adapters left out."""
    return [layer.base_layer for layer in model.roles.layers().values()] + [model.base.get_output_embeddings()]


def weight_bytes(model: nn.Module) -> int:
    """What a decoding step reads of the weights."""
    return sum(layer.weight.nbytes for layer in read_layers(model))


@torch.no_grad()
def vector_products(model: nn.Module, times: int) -> None:
    """The matrix-vector products of so many decoding steps without adapters, and nothing else."""
    layers = read_layers(model)
    how = {"dtype": model.base.dtype, "device": layers[0].weight.device}
    inputs = {n: torch.ones(1, n, **how) for n in {layer.in_features for layer in layers}}
    for _ in range(times):
        for layer in layers:
            nn.functional.linear(inputs[layer.in_features], layer.weight)


def bandwidth(device: str = "cpu", repeats: int = 5) -> float:
    """Bytes a second that are read from memory, by the scalar product of two large vectors; the best of some."""
    one, other = (torch.ones(READ_BYTES // 8, device=device) for _ in range(2))
    return READ_BYTES / min(_seconds(one, other, device) for _ in range(repeats))


def _seconds(one: Tensor, other: Tensor, device: str) -> float:
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    torch.dot(one, other)
    wait()
    return time.perf_counter() - start

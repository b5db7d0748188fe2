"""Element types of stored latents: a block to bytes and back.

``float32``, ``bfloat16`` and ``float16`` are the numbers themselves; ``int8`` and ``int4`` have a float32 scale for
each of the ``M`` vectors in front (``max|x| / 127`` and ``/ 7``), int4 two numbers to a byte. ``exact`` keeps the type
that a block has. What comes back has the type that went in, whatever it was stored as.
Shapes: ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from clara_model.errors import ClaraError

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXACT = "exact"
_LARGEST = {"int8": 127, "int4": 7}
ENCODINGS = (EXACT, *FLOATS, *_LARGEST)
_EXPONENTS = {
    torch.float32: (torch.int32, 0x7F800000),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
}


@dataclass(frozen=True)
class EncodedBlock:
    """One block ``[slots, width]`` as bytes, with what is needed to read it."""

    data: memoryview | bytes
    encoding: str
    """What the bytes are; never ``exact``."""
    dtype: str
    """The float type that comes back."""
    slots: int
    width: int


def check_encoding(encoding: str) -> str:
    """A known encoding."""
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, got {encoding!r}")
    return encoding


def encode(vector_MD: Tensor, encoding: str) -> EncodedBlock:
    """A block ``[M, D]`` as bytes.

    Raises:
        ClaraError: numbers that are not finite, which no later reader could use.
        TypeError: a float type other than the three.
    """
    vector_MD = vector_MD.detach()
    dtype = str(vector_MD.dtype).removeprefix("torch.")
    if dtype not in FLOATS:
        raise TypeError(f"latents must be {', '.join(FLOATS)}, got {dtype}")
    if not _is_finite(vector_MD):
        raise ClaraError("latents hold numbers that are not finite (NaN or infinity); they are not stored")
    stored = dtype if encoding == EXACT else encoding
    if stored == "float16" and vector_MD.abs().max() > torch.finfo(torch.float16).max:
        raise ClaraError("latents hold numbers above 65504, which float16 cannot; choose another encoding")
    data = _bytes(vector_MD.to(FLOATS[stored])) if stored in FLOATS else _whole(vector_MD.float(), stored)
    return EncodedBlock(data, stored, dtype, *vector_MD.shape)


def decode(encoded: EncodedBlock) -> Tensor:
    """The block ``[M, D]`` again; it shares memory with ``encoded.data`` where nothing had to be computed.

    Raises:
        ValueError: an unknown type, or bytes of another size than the shape says.
    """
    data, encoding, slots, width = memoryview(encoded.data), encoded.encoding, encoded.slots, encoded.width
    if encoding not in ENCODINGS[1:] or encoded.dtype not in FLOATS:
        raise ValueError(f"unknown element type {encoding!r} or {encoded.dtype!r}")
    if len(data) != encoded_bytes(encoding, slots, width):
        raise ValueError(f"{len(data)} bytes cannot be {slots} x {width} {encoding}")
    if encoding in FLOATS:
        return torch.frombuffer(data, dtype=FLOATS[encoding]).view(slots, width).to(FLOATS[encoded.dtype])
    scale_M1 = torch.frombuffer(data[: 4 * slots], dtype=torch.float32).view(-1, 1)
    whole = torch.frombuffer(data[4 * slots :], dtype=torch.int8).view(slots, -1)
    if encoding == "int4":
        whole = torch.stack([(whole << 4) >> 4, whole >> 4], dim=-1).flatten(1)[:, :width]
    return (whole.float() * scale_M1).to(FLOATS[encoded.dtype])


def encoded_bytes(encoding: str, slots: int, width: int) -> int:
    """Bytes of one block in an encoding other than ``exact``."""
    if encoding in FLOATS:
        return slots * width * FLOATS[encoding].itemsize
    return slots * (4 + (width if encoding == "int8" else (width + 1) // 2))


def _is_finite(vector_MD: Tensor) -> bool:
    """Whether no number's exponent is all ones; several times faster than ``isfinite``."""
    whole, ones = _EXPONENTS[vector_MD.dtype]
    bits = vector_MD.cpu().view(whole).numpy()
    return not vector_MD.numel() or int((bits & ones).max()) != ones


def _whole(vector_MD: Tensor, encoding: str) -> bytes:
    scale_M1 = vector_MD.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / _LARGEST[encoding]
    whole = (vector_MD / scale_M1).round().to(torch.int8)
    if encoding == "int4":
        whole = pad(whole, (0, whole.shape[1] % 2))
        whole = (whole[:, 1::2] << 4) | (whole[:, ::2] & 15)
    return bytes(_bytes(scale_M1)) + bytes(_bytes(whole))


def _bytes(values: Tensor) -> memoryview:
    flat: Any = values.contiguous().cpu().view(torch.uint8).numpy()
    return memoryview(flat).cast("B")


with warnings.catch_warnings():  # torch warns once in a process about bytes that are read-only: here, unseen
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)

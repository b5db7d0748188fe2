"""Element types of stored latents: a block to bytes and back.

``float32``, ``bfloat16`` and ``float16`` are the numbers themselves; ``int8`` and ``int4`` have a float32 scale for
each of the ``M`` vectors in front (``max|x| / 127`` and ``/ 7``), int4 two numbers to a byte. ``exact`` keeps the type
that a block has. What comes back has the type that went in, whatever it was stored as.
Shapes: ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from clara_model.errors import ClaraError
from clara_model.windows import Window

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXACT = "exact"
_EXPONENTS = {
    torch.float32: (torch.int32, 0x7F800000),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
}
ENCODINGS = (EXACT, *FLOATS, "int8", "int4")


@dataclass(frozen=True)
class EncodedBlock:
    """One block as bytes, with what is needed to read it."""

    data: memoryview | bytes
    encoding: str
    """What the bytes are; never ``exact``."""
    dtype: str
    """The float type that comes back."""
    slots: int
    """``M``."""
    width: int
    """``D``."""


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
    dtype = str(vector_MD.dtype).removeprefix("torch.")
    if dtype not in FLOATS:
        raise TypeError(f"latents must be {', '.join(FLOATS)}, got {dtype}")
    if not _is_finite(vector_MD):
        raise ClaraError("latents hold numbers that are not finite (NaN or infinity); they are not stored")
    stored = dtype if encoding == EXACT else encoding
    if stored == "float16" and vector_MD.abs().max() > torch.finfo(torch.float16).max:
        raise ClaraError("latents hold numbers above 65504, which float16 cannot; choose another encoding")
    made = _WRITERS[stored](vector_MD.detach())
    return EncodedBlock(made, stored, dtype, *vector_MD.shape)


def decode(encoded: EncodedBlock) -> Tensor:
    """The block ``[M, D]`` again; it shares memory with ``encoded.data`` where nothing had to be computed.

    Raises:
        ValueError: an unknown type, or bytes of another size than the shape says.
    """
    if encoded.encoding not in _READERS or encoded.dtype not in FLOATS:
        raise ValueError(f"unknown element type {encoded.encoding!r} or {encoded.dtype!r}")
    if len(encoded.data) != encoded_bytes(encoded.encoding, encoded.slots, encoded.width):
        raise ValueError(f"{len(encoded.data)} bytes cannot be {encoded.slots} x {encoded.width} {encoded.encoding}")
    made = _READERS[encoded.encoding](encoded)
    return made if encoded.encoding == encoded.dtype else made.to(FLOATS[encoded.dtype])


def encoded_bytes(encoding: str, slots: int, width: int) -> int:
    """Bytes of one block in an encoding other than ``exact``."""
    if encoding in FLOATS:
        return slots * width * FLOATS[encoding].itemsize
    return slots * (4 + (width if encoding == "int8" else (width + 1) // 2))


def _is_finite(vector_MD: Tensor) -> bool:
    """Whether no number's exponent is all ones; several times faster than ``isfinite``."""
    whole, ones = _EXPONENTS[vector_MD.dtype]
    bits = vector_MD.detach().cpu().view(whole).numpy()
    return not vector_MD.numel() or int((bits & ones).max()) != ones


def _floats(dtype: torch.dtype) -> Callable[[Tensor], memoryview]:
    return lambda vector_MD: _bytes(vector_MD.to(dtype))


def _read_floats(encoded: EncodedBlock) -> Tensor:
    flat = _tensor(encoded.data, FLOATS[encoded.encoding])
    return flat.view(encoded.slots, encoded.width)


def _scaled(vector_MD: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Whole numbers in ``[-top, top]`` and the scale ``[M, 1]`` of each vector."""
    values = vector_MD.float()
    scale_M1 = values.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / top
    return (values / scale_M1).round().to(torch.int8), scale_M1


def _int8(vector_MD: Tensor) -> bytes:
    whole, scale = _scaled(vector_MD, 127)
    return bytes(_bytes(scale)) + bytes(_bytes(whole))


def _read_int8(encoded: EncodedBlock) -> Tensor:
    scale, rest = _split_scales(encoded)
    return _tensor(rest, torch.int8).view(encoded.slots, encoded.width).float() * scale


def _int4(vector_MD: Tensor) -> bytes:
    whole, scale = _scaled(vector_MD, 7)
    if whole.shape[1] % 2:
        whole = torch.nn.functional.pad(whole, (0, 1))
    low, high = ((part & 15) for part in (whole[:, ::2], whole[:, 1::2]))
    return bytes(_bytes(scale)) + bytes(_bytes((high << 4) | low))


def _read_int4(encoded: EncodedBlock) -> Tensor:
    scale, rest = _split_scales(encoded)
    pairs = _tensor(rest, torch.int8).view(encoded.slots, -1)
    whole = torch.stack([(pairs << 4) >> 4, pairs >> 4], dim=-1).flatten(1)[:, : encoded.width]
    return whole.float() * scale


def _split_scales(encoded: EncodedBlock) -> tuple[Tensor, memoryview]:
    data = memoryview(encoded.data)
    scales = 4 * encoded.slots
    return _tensor(data[:scales], torch.float32).view(-1, 1), data[scales:]


def _bytes(values: Tensor) -> memoryview:
    flat: Any = values.contiguous().cpu().view(torch.uint8).numpy()
    return memoryview(flat).cast("B")


def _tensor(data: memoryview | bytes, dtype: torch.dtype) -> Tensor:
    """A tensor over bytes; blocks are never written to, so that the bytes may be read-only."""
    return torch.frombuffer(data, dtype=dtype)


with warnings.catch_warnings():  # torch warns once in a process about bytes that are read-only: here, unseen
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


_WRITERS: dict[str, Callable[[Tensor], memoryview | bytes]] = {
    **{name: _floats(dtype) for name, dtype in FLOATS.items()},
    "int8": _int8,
    "int4": _int4,
}
_READERS: dict[str, Callable[[EncodedBlock], Tensor]] = {
    **dict.fromkeys(FLOATS, _read_floats),
    "int8": _read_int8,
    "int4": _read_int4,
}


def checksum(data: bytes | memoryview, *about: object) -> bytes:
    """8 bytes that depend on the data and on everything that is said about it (by its ``repr``)."""
    return _checksum(data, repr(about))


def _checksum(data: bytes | memoryview, about: str) -> bytes:
    digest = xxhash.xxh3_64(data)
    digest.update(about.encode("utf-8", "backslashreplace"))
    return digest.digest()


def document_checksum(one: str, digest: str, metadata: str, windows: Iterable[Window]) -> bytes:
    """8 bytes that depend on all that is kept of a document, spelled out here: stores outlast types and their names."""
    places = "".join(f", Window(key={w.key!r}, start={w.start}, end={w.end})" for w in windows)
    return _checksum(b"", f"({one!r}, {digest!r}, {metadata!r}{places})")


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON, in the spelling that `store.filters` looks for.

    Raises:
        TypeError: a name that is not a string, or a value that JSON cannot hold.
    """
    if not all(isinstance(name, str) for name in metadata):
        raise TypeError(f"metadata names must be strings, got {list(metadata)!r}")
    try:
        return json.dumps(dict(metadata), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"metadata must be values that JSON can hold: {error}") from None

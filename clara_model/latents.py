"""Latents: what a document (or a question) is compressed into, with what is needed to keep it and to trust it later.

Shapes: ``N`` documents, ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clara_model.errors import ClaraError
from clara_model.windows import Window


@dataclass(frozen=True, eq=False)
class Latents:
    """``vectors`` ``[N, M, D]``, ``lengths`` ``[N]`` and the ``fingerprint`` of the checkpoint that made them."""

    vectors: Tensor
    """Last hidden states at the memory tokens, after the final norm: ``[N, M, D]``, float."""
    lengths: tuple[int, ...]
    """Text tokens that each block stands for, special tokens not counted."""
    fingerprint: str
    """Of the compressor that made them; latents of another one are refused wherever they are used."""
    windows: tuple[Window, ...] | None = None
    """Which stretch of which document each block stands for; None where each is a document of its own."""
    texts: tuple[str, ...] | None = field(default=None, repr=False)
    """The text that each block stands for, where it is known: what ranks by words, is read as text, and is quoted.
    `save` leaves it out."""

    def __post_init__(self) -> None:
        if not isinstance(self.vectors, Tensor) or not self.vectors.is_floating_point():
            kind = self.vectors.dtype if isinstance(self.vectors, Tensor) else type(self.vectors).__name__
            raise TypeError(f"vectors must be a tensor of floats, got {kind}")
        for what, parts in (("window", self.windows), ("text", self.texts)):
            if parts is not None and len(parts) != len(self.lengths):
                raise ValueError(f"need a {what} for each of {len(self.lengths)} blocks, got {len(parts)}")
        if self.vectors.dim() != 3 or len(self.lengths) != len(self.vectors):
            raise ValueError(
                f"vectors must be [N, M, D] with N lengths, got {tuple(self.vectors.shape)} and {len(self.lengths)}"
            )

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> Latents: ...
    def __getitem__(self, index: int | slice | Sequence[int]) -> Tensor | Latents:
        """One block ``[M, D]`` for a number; `Latents` for a slice or a list of numbers."""
        if isinstance(index, slice):
            rows = list(range(len(self)))[index]
        elif isinstance(index, Iterable):
            rows = [_row(number) for number in index]
        else:
            return self.vectors[_row(index)]
        picked = self.vectors[torch.tensor(rows, dtype=torch.long, device=self.vectors.device)]
        windows = None if self.windows is None else tuple(self.windows[row] for row in rows)
        texts = None if self.texts is None else tuple(self.texts[row] for row in rows)
        return Latents(picked, tuple(self.lengths[row] for row in rows), self.fingerprint, windows, texts)

    @property
    def documents(self) -> int:
        """How many documents the blocks stand for; those of a long one are several."""
        if self.windows is None:
            return len(self)
        return max((window.document for window in self.windows), default=-1) + 1

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors."""
        return self.vectors.numel() * self.vectors.element_size()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Latents:
        """The same latents on another device or in another float type."""
        return replace(self, vectors=self.vectors.to(device=device, dtype=dtype))

    def detach(self) -> Latents:
        """The same latents without gradient history."""
        return replace(self, vectors=self.vectors.detach())

    @classmethod
    def stack(cls, parts: Sequence[Latents]) -> Self:
        """All blocks of all parts in order; the documents of a part are counted on from those before it.

        Raises:
            ClaraError: the parts come from different checkpoints.
        """
        if not parts:
            raise ValueError("nothing to stack: got no latents")
        prints = sorted({part.fingerprint for part in parts})
        if len(prints) > 1:
            raise ClaraError(f"latents of different checkpoints cannot be mixed: {', '.join(prints)}")
        lengths = tuple(length for part in parts for length in part.lengths)
        known = all(part.texts is not None for part in parts)
        texts = tuple(text for part in parts for text in part.texts or ()) if known else None
        vectors_NMD = torch.cat([part.vectors for part in parts])
        return cls(vectors_NMD, lengths, prints[0], _stacked_windows(parts), texts)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: ``vectors``, ``lengths``, ``windows``, and the fingerprint in its metadata."""
        vectors = self.vectors.detach().cpu().contiguous()
        tensors = {"vectors": vectors, "lengths": torch.tensor(self.lengths, dtype=torch.long)}
        if self.windows is not None:
            rows = [(one.document, one.number, one.start, -1 if one.end is None else one.end) for one in self.windows]
            tensors["windows"] = torch.tensor(rows, dtype=torch.long).view(-1, 4)
        save_file(tensors, path, metadata={"fingerprint": self.fingerprint})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ClaraError: the file is damaged or holds no latents.
        """
        tensors = {}
        try:
            with safe_open(path, framework="pt") as file:
                fingerprint = (file.metadata() or {}).get("fingerprint")
                for name in file.keys():
                    tensors[name] = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ClaraError(f"{path} cannot be read as latents ({error})") from error
        if fingerprint is None or set(tensors) - {"windows"} != {"vectors", "lengths"}:
            raise ClaraError(
                f"{path} is a safetensors file but holds no latents; it has {', '.join(sorted(tensors)) or 'nothing'}"
            )
        vectors, lengths, rows = tensors["vectors"], tensors["lengths"], tensors.get("windows")
        whole = all(t is None or not (t.is_floating_point() or t.is_complex()) for t in (lengths, rows))
        if not whole or lengths.dim() != 1 or (rows is not None and rows.dim() != 2) or bool((lengths < 0).any()):
            raise ClaraError(f"{path} holds no latents: its lengths or windows are no whole numbers in rows")
        try:
            windows = None
            if rows is not None:
                windows = tuple(
                    Window(document=document, number=number, start=start, end=None if end == -1 else end)
                    for document, number, start, end in rows.tolist()
                )
            return cls(vectors, tuple(lengths.tolist()), fingerprint, windows)
        except (TypeError, ValueError) as error:
            raise ClaraError(f"{path} holds no latents: {error}") from error


def _row(number: object) -> int:
    """A row number of any whole type; a mask is not one."""
    if isinstance(number, (bool, np.bool_)) or (isinstance(number, Tensor) and number.dtype == torch.bool):
        raise TypeError(
            "expected row numbers, got a truth value; of a mask, pass the numbers of the rows that are true"
        )
    return operator.index(number)  # type: ignore[arg-type]


def _stacked_windows(parts: Sequence[Latents]) -> tuple[Window, ...] | None:
    """The windows of all parts with their documents counted on; None where no part has any."""
    if all(part.windows is None for part in parts):
        return None
    windows: list[Window] = []
    before = 0
    for part in parts:
        own = part.windows or [Window(document=index) for index in range(len(part))]
        windows += [replace(window, document=window.document + before) for window in own]
        before += part.documents
    return tuple(windows)

"""What a store of latents is: the seam that the pipeline calls, and what a store that outlives the process adds to it.

A *block* is the latents of one window of text. It is found by its key, the hash of the window's text, under the
fingerprint of the checkpoint that made it, so what another checkpoint made is never found. A *document* is an ordered
list of windows under an id of the user's, with metadata.
Shapes: ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

from clara_model.errors import ClaraError
from clara_model.windows import Window
from clara_model.windows import content_key as content_key

ENTRY_BYTES = 512
"""Counted for each block beside its vector and text: key, objects and their bookkeeping."""

AT_ONCE = 256
"""Blocks or documents that are in memory, or named in one query, at a time."""
T = TypeVar("T")

Where = Mapping[str, Any]
"""A filter on metadata: each name must have the value, or one of the values of a list; more in `store.filters`."""


@dataclass(frozen=True, eq=False)
class Block:
    """The latents of one window: ``vector`` ``[M, D]`` in host memory (never written to), and its text tokens."""

    vector: Tensor
    length: int
    text: str | None = None
    """The window's text where it is known; a store keeps it by option."""

    @property
    def nbytes(self) -> int:
        """Bytes that the block occupies in a cache."""
        return self.vector.numel() * self.vector.element_size() + len(self.text or "") + ENTRY_BYTES


@dataclass(frozen=True, eq=False)
class Row:
    """A block as a store holds it."""

    number: int
    """Grows with every block that is put, and is never given twice in one store."""
    key: str
    block: Block


@dataclass(frozen=True)
class StoredDocument:
    """A document that has been compressed: its windows in order, and what the user keeps beside it."""

    id: str
    windows: tuple[Window, ...]
    """Each with its key, start and end."""
    digest: str
    """Of its content; another one means that the document has changed."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values by name."""

    def placed(self) -> Iterator[Window]:
        """Its windows with what is said about it."""
        for number, window in enumerate(self.windows):
            yield replace(window, document=self.id, number=number, metadata=self.metadata)


@dataclass(frozen=True)
class StoreStats:
    """What a store holds."""

    url: str
    fingerprint: str | None
    """Of the checkpoint whose latents it holds; None before the first."""
    encoding: str
    keeps_text: bool
    blocks: int
    documents: int
    nbytes: int
    """On the disk, room that deleted rows have left included."""
    format: int


@dataclass(frozen=True)
class Damage:
    """Something in a store that is not as it was written."""

    where: str
    """The key of a block, the id of a document, or the file."""
    what: str


class MissingBlocks(ClaraError):
    """Documents were to be recorded whose blocks are not in the store (any more)."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        """``missing``: the id of a document by the key of each block that is not there."""
        self.keys = frozenset(missing)
        key, document = next(iter(missing.items()))
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        super().__init__(f"document {document!r} has the block {key}{more}, which is not in the store; put it first")


def check_fingerprint(store: str, own: str | None, fingerprint: str) -> None:
    """Refuse a store (its URL) that another checkpoint filled (``own``: None while it is empty), or in another dtype.

    Raises:
        ClaraError: with both fingerprints.
    """
    if own is not None and own != fingerprint:
        raise ClaraError(
            f"the store {store} holds latents of checkpoint {own} and this is checkpoint {fingerprint}; use a store of "
            "its own for each checkpoint, and for each dtype of one (where none is given, the machine decides it)"
        )


def batches(items: Iterable[T], size: int = AT_ONCE) -> Iterator[list[T]]:
    """So many at a time."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


class LatentStore(Protocol):
    """Where blocks are kept. Calls come from many threads; a store may forget a block, never change one."""

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        """The blocks of these keys that this checkpoint made, ``None`` where there is none, or it is damaged (logged).

        Raises:
            ClaraError: the store is another checkpoint's, or cannot be read.
        """

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        """Keep blocks that this checkpoint made, by key, in place of what is there; when it returns, all are kept.

        Raises:
            ClaraError: the store is another checkpoint's or cannot be written, or a block is not finite; none is kept.
        """


class DurableStore(LatentStore, Protocol):
    """A `LatentStore` that outlives the process. It holds the latents of one checkpoint.

    A row that is damaged is never returned: it is named in a warning and counts as not there, so it is made anew.
    """

    url: str
    """What `open_store` opens it by."""
    identity: str
    """A name that no other store has, for what is derived from this one."""

    @property
    def fingerprint(self) -> str | None:
        """Of the checkpoint whose latents it holds; None before the first `put`."""

    @property
    def generation(self) -> int:
        """Moves whenever a block that was there has gone, or stands under another number.

        A store that is far away says what it has seen when it was last read.
        """

    def delete(self, keys: Sequence[str]) -> int:
        """Forget blocks; how many there were."""

    def iterate(self, after: int = 0) -> Iterator[Row]:
        """All blocks with a number above ``after``, in the order of their numbers."""

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """The blocks with these numbers, in this order, without those that are gone."""

    def numbers(self, keys: Sequence[str]) -> dict[str, int]:
        """The number of each key that is there."""

    def all_numbers(self) -> list[int]:
        """The numbers of all blocks, rising."""

    @property
    def last_number(self) -> int:
        """No block has had a higher number; 0 before the first."""

    def record(self, documents: Sequence[StoredDocument]) -> None:
        """Keep documents, in place of what is there under their ids; blocks that only the old form had are deleted.

        Raises:
            MissingBlocks: the block of a window is not in the store, perhaps because another process has deleted it
                just now; put it again and call again.
        """

    def forget(self, ids: Sequence[str]) -> int:
        """Delete documents, and the blocks that no other document has; how many documents there were."""

    def digests(self) -> dict[str, str]:
        """The digest of every document by id."""

    def documents(self) -> Iterator[StoredDocument]:
        """All documents, in the order of their ids."""

    def find(self, document: str | None = None, where: Where | None = None) -> list[Window]:
        """The windows of one document, or of those whose metadata fit, in order."""

    def places(self, keys: Sequence[str], where: Where | None = None) -> list[Window]:
        """Every place where these blocks stand, in documents whose metadata fit, in the order of the keys."""

    def matching(self, where: Where) -> list[int]:
        """The numbers of the blocks that stand in a document whose metadata fit, rising."""

    def stats(self) -> StoreStats:
        """What it holds."""

    def compact(self) -> None:
        """Give the room of deleted rows back to the disk."""

    def clear(self) -> None:
        """Delete everything; another checkpoint may fill it. Who has it open goes on in the empty store."""

    def verify(self, documents: Sequence[str] | None = None, *, mend: bool = False) -> list[Damage]:
        """Read everything, or these documents with their blocks; what is damaged or missing.

        Args:
            documents: their ids.
            mend: drop what is damaged, so that the next `clara compress` makes it anew.
        """

    def close(self) -> None:
        """Let go of it, with everything on the disk; closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

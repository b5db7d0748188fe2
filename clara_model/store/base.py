"""What every kind of store that lasts does alike: a checksum over each row, and windows found through their documents.

A row that is not as it was written is named in a warning and left out. Each kind says how rows are read and written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import xxhash

from clara_model.errors import ClaraError
from clara_model.store.encodings import EncodedBlock, decode
from clara_model.store.protocol import Block, Damage, DurableStore, Row, StoredDocument, Where, check_fingerprint
from clara_model.windows import Window

logger = logging.getLogger(__name__)

COLUMNS = ("key", "length", "slots", "width", "encoding", "dtype", "checksum", "text")
"""Of a block, before those that say where its bytes are."""
_DAMAGED = (ValueError, TypeError, AttributeError)
"""What reading a damaged row runs into."""


class BaseStore(DurableStore):
    """A `DurableStore` on rows of some kind; keys may be bytes in them."""

    encoding: str
    keeps_text: bool

    def _blocks(self, column: str, values: Sequence[Any]) -> Iterator[Row]:
        """The intact blocks with one of these keys or numbers, by ``column``, in any order."""
        raise NotImplementedError

    def _data(self, *place: Any) -> bytes | memoryview:
        """The bytes of a block, by the last columns of its row."""
        raise NotImplementedError

    def _fitting(self, where: Where | None, document: str | None, keys: list[str] | None) -> list[StoredDocument]:
        """The intact documents, by id, whose metadata fit: all, one, or those that have one of some keys."""
        raise NotImplementedError

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        if self.fingerprint is None:
            return [None] * len(keys)
        found = {row.key: row.block for row in self._blocks("key", list(dict.fromkeys(keys)))}
        check_fingerprint(self.url, self.fingerprint, fingerprint)
        return [found.get(key) for key in keys]

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        found = {row.number: row for row in self._blocks("number", list(dict.fromkeys(numbers)))}
        return [found[number] for number in numbers if number in found]

    def find(self, document: str | None = None, where: Where | None = None) -> list[Window]:
        return [window for one in self._fitting(where, document, None) for window in one.placed()]

    def places(self, keys: Sequence[str], where: Where | None = None) -> list[Window]:
        found: dict[str, list[Window]] = {key: [] for key in keys}
        for one in self._fitting(where, None, list(found)):
            for window in one.placed():
                if window.key in found:
                    found[window.key].append(window)
        return [window for key in keys for window in found[key]]

    def _check_options(self, encoding: str | None, keep_text: bool | None) -> None:
        """Refuse options (None: no matter) that the store was not made with."""
        own = {"encoding": (encoding, self.encoding), "keep_text": (keep_text, self.keeps_text)}
        for name, (asked, kept) in own.items():
            if asked is not None and asked != kept:
                raise ClaraError(
                    f"{self.url} has {name} {kept} and {asked} was asked for; leave {name} out, or copy it"
                )

    def _values(self, fingerprint: str, key: str | bytes, block: Block, encoded: EncodedBlock) -> tuple[Any, ...]:
        """The `COLUMNS` of a block, with a checksum over all that a reader relies on."""
        text = block.text if self.keeps_text else None
        if text is not None:
            text = text.encode("utf-8", "replace").decode()  # neither SQLite nor Arrow takes lone surrogates
        about = (key, block.length, encoded.slots, encoded.width, encoded.encoding, encoded.dtype)
        return *about, _checksum(encoded.data, repr((fingerprint, *about, text))), text

    def _row(self, number: int, key: Any, *values: Any) -> Row:
        length, slots, width, encoding, dtype, kept, text, *place = values
        data = self._data(*place)
        if kept != _checksum(data, repr((self.fingerprint, key, length, slots, width, encoding, dtype, text))):
            raise ValueError("its bytes have changed since they were written")
        block = Block(decode(EncodedBlock(data, encoding, dtype, slots, width)), length, text)
        return Row(number, _spelled(key), block)

    def _sorted(self, rows: Iterable[tuple[Any, ...]]) -> tuple[list[Row], list[Damage]]:
        """Of blocks, by number and columns, those that are as they were written, and what is wrong with the others."""
        intact, damaged = [], []
        for number, key, *values in rows:
            try:
                intact.append(self._row(number, key, *values))
            except _DAMAGED as error:
                name = _spelled(key) if isinstance(key, (bytes, str)) else f"number {number}"
                damaged.append(Damage(name, str(error)))
        return intact, damaged

    def _warn(self, damaged: Sequence[Damage]) -> None:
        if damaged:
            more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
            logger.warning("%s: block %s is left out: %s%s", self.url, damaged[0].where, damaged[0].what, more)

    def _documents_of(
        self, rows: Iterable[tuple[Any, ...]], damaged: list[Damage] | None = None
    ) -> list[StoredDocument]:
        """The documents, by id, of rows as `document_values` and the keys, starts and ends of the windows.

        Those that are not as they were written go into ``damaged``, or are named in a warning.
        """
        found = {}
        for row in rows:
            try:
                found[row[0]] = _document(*row)
            except _DAMAGED as error:
                if damaged is None:
                    logger.warning("%s: document %s is left out: %s", self.url, row[0], error)
                else:
                    damaged.append(Damage(str(row[0]), str(error)))
        return [found[one] for one in sorted(found)]


def document_values(document: StoredDocument) -> tuple[str, str, str, bytes]:
    """Id, digest, metadata as JSON in the spelling that `store.filters` looks for, and a checksum over all.

    Raises:
        TypeError: a metadata name that is not a string, or a value that JSON cannot hold.
    """
    if not all(isinstance(name, str) for name in document.metadata):
        raise TypeError(f"metadata names must be strings, got {list(document.metadata)!r}")
    try:
        metadata = json.dumps(dict(document.metadata), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"metadata must be values that JSON can hold: {error}") from None
    kept = _document_checksum(document.id, document.digest, metadata, document.windows)
    return document.id, document.digest, metadata, kept


def _document(
    one: str, digest: str, metadata: str, kept: bytes, keys: Iterable[Any], starts: Iterable[int], ends: Iterable[int]
) -> StoredDocument:
    windows = tuple(map(Window, map(_spelled, keys), starts, ends))
    if kept != _document_checksum(one, digest, metadata, windows):
        raise ValueError("it has changed since it was written")
    return StoredDocument(one, windows, digest, json.loads(metadata))


def _document_checksum(one: str, digest: str, metadata: str, windows: Iterable[Window]) -> bytes:
    """Over all that is kept of a document, spelled out here: stores outlast types and their names."""
    places = "".join(f", Window(key={w.key!r}, start={w.start}, end={w.end})" for w in windows)
    return _checksum(b"", f"({one!r}, {digest!r}, {metadata!r}{places})")


def _spelled(key: str | bytes) -> str:
    return key.hex() if isinstance(key, bytes) else key


def _checksum(data: bytes | memoryview, about: str) -> bytes:
    """8 bytes that depend on the data and on everything that is said about it."""
    digest = xxhash.xxh3_64(data)
    digest.update(about.encode("utf-8", "backslashreplace"))
    return digest.digest()

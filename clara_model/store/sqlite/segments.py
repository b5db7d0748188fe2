"""The bytes of an embedded store's blocks: one append-only file, read through a memory map.

A file is written from the front to the back at offsets that the SQLite file beside it hands out, and never changed
before that end; compacting writes the next file and deletes the last. What is read is a view of the map, not a copy: it
costs no memory of its own, and keeps its file on the disk as long as it is held.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from clara_model.errors import ClaraError


class Replaced(Exception):
    """A segment's file is not there: the store has been compacted in between, or it was deleted."""


class Segments:
    """The files ``data-<number>.bin`` of a folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is opened yet."""
        self.folder = folder
        self._maps: dict[int, mmap.mmap] = {}
        self._dirty: set[int] = set()

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self.folder / f"data-{segment}.bin"

    def read(self, segment: int, offset: int, size: int) -> memoryview:
        """The bytes, read-only.

        Raises:
            Replaced: the segment is not there.
            ValueError: the file ends before them.
        """
        mapped = self._maps.get(segment)
        if mapped is None or offset + size > len(mapped):
            mapped = self._map(segment)
        if not 0 <= offset <= offset + size <= len(mapped):
            raise ValueError(f"{self.path(segment).name} ends before its bytes")
        return memoryview(mapped)[offset : offset + size]

    def _map(self, segment: int) -> mmap.mmap:
        try:
            file = self.path(segment).open("rb")
        except FileNotFoundError as error:
            raise Replaced(f"{self.path(segment).name} is not there") from error
        with file:
            if not os.fstat(file.fileno()).st_size:
                raise ValueError(f"{self.path(segment).name} is empty")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps[segment] = mapped
        return mapped

    def write(self, segment: int, offset: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Write pieces one behind the other.

        Raises:
            ClaraError: there is no room, or no permission.
        """
        try:
            file = os.open(self.path(segment), os.O_RDWR | os.O_CREAT, 0o666)
            try:
                for piece in pieces:
                    _write_all(file, piece, offset)
                    offset += len(piece)
            finally:
                os.close(file)
        except OSError as error:
            raise ClaraError(
                f"{self.path(segment)} cannot be written ({error.strerror}), nothing of this call was kept; "
                "free some room on the disk, or check the file's permissions"
            ) from error
        self._dirty.add(segment)

    def sync(self) -> None:
        """Wait until everything that was written here is on the disk."""
        for segment in self._dirty:
            if self.path(segment).exists():  # it may have been compacted away
                file = os.open(self.path(segment), os.O_RDONLY)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)
        self._dirty = set()

    def keep_only(self, segment: int) -> None:
        """Delete the other segments' files; who still reads one keeps it until done."""
        for path in self.folder.glob("data-*.bin"):
            if path != self.path(segment):
                path.unlink(missing_ok=True)
        self._maps = {number: mapped for number, mapped in self._maps.items() if number == segment}
        self._dirty &= {segment}

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self.folder.glob("data-*.bin"))


def _write_all(file: int, piece: bytes | memoryview, offset: int) -> None:
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written

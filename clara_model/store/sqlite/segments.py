"""The bytes of an embedded store's blocks: append-only files of bounded size, read through memory maps.

A file is written from the front to the back at offsets that the SQLite file beside it hands out, and never changed
before that end; compacting copies what is left of one into the last and deletes it, and no number is given twice. What
is read is a view of the map, not a copy: it costs no memory of its own, and keeps its file on the disk as long as it is
held.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from clara_model.errors import ClaraError

SEGMENT_BYTES = 256 * 1024 * 1024
"""A file that has as many gets no more blocks."""
_MAPS = 64
"""Files that are kept open."""


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
            ValueError: the file is not there (the store has been compacted, or it was deleted) or ends before them.
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
            raise ValueError(f"{self.path(segment).name} is not there") from error
        with file:
            if not os.fstat(file.fileno()).st_size:
                raise ValueError(f"{self.path(segment).name} is empty")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for old in list(self._maps)[: len(self._maps) - _MAPS]:
            self._maps.pop(old, None)
        self._maps[segment] = mapped
        return mapped

    def write(self, segment: int, offset: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Write pieces one behind the other, at the file's end.

        Raises:
            ClaraError: there is no room, or no permission; the room that they took is free again.
        """
        end = offset
        try:
            file = os.open(self.path(segment), os.O_RDWR | os.O_CREAT, 0o666)
            try:
                for piece in pieces:
                    write_all(file, piece, end)
                    end += len(piece)
            except OSError:
                os.ftruncate(file, offset)
                raise
            finally:
                os.close(file)
        except OSError as error:
            raise ClaraError(
                f"{self.path(segment)} cannot be written ({error.strerror}), nothing of this call was kept; "
                "free some room on the disk, or check the file's permissions"
            ) from error
        self._dirty.add(segment)

    def cut(self, segment: int, end: int) -> None:
        """Give back what was written behind the last block and not entered. Inside a transaction."""
        for one, size in self.sizes().items():
            if one > segment:
                self.remove([one])
            elif one == segment and size > end:
                os.truncate(self.path(segment), end)

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

    def remove(self, segments: Iterable[int]) -> None:
        """Delete files that hold nothing any more; who still reads one keeps it until done."""
        for segment in segments:
            self.path(segment).unlink(missing_ok=True)
            self._maps.pop(segment, None)
            self._dirty.discard(segment)

    def sizes(self) -> dict[int, int]:
        """Bytes of each file by its number."""
        found = {}
        for path in self.folder.glob("data-*.bin"):
            number = path.stem.removeprefix("data-")
            with suppress(FileNotFoundError):  # another process compacts
                if number.isdigit():
                    found[int(number)] = path.stat().st_size
        return found

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(self.sizes().values())


def write_all(file: int, piece: bytes | memoryview, offset: int) -> None:
    """Write to an open file, however little of it the system takes at a time."""
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written

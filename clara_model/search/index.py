"""The coarse index of a store: every block's short vector in memory-mapped files, brought up to date from the store.

Derived from the store, in a folder of its own, and built anew where it is lost, another store's, mostly of blocks that
are gone, or learned from too few. An SQLite file says how far it reaches and lets one process write at a time; what it
counts as written is never changed. For late interaction it holds the signs of every slot instead.
Shapes: ``N`` blocks, ``S`` directions, ``G`` bytes of signs, ``M`` slots.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clara_model.errors import ClaraError
from clara_model.search.sketch import BITS, SIZE, Array, Directions, as_bytes, rotation, slot_signs
from clara_model.store.protocol import DurableStore, Row
from clara_model.store.sqlite.connection import Connections
from clara_model.store.sqlite.segments import write_all

FILE = "coarse.sqlite"
FORMAT = 3
_AT_ONCE = 4096
"""Blocks that are taken in together; the first of them say in which directions blocks differ."""
_ROTATED_AT_ONCE = 1 << 21
"""Numbers of latents that are rotated together: few enough to stay in a CPU's cache."""
_LEARN_AGAIN = 4
"""Where the directions were learned from fewer, they are learned anew when there are so many times as many."""


_TAIL = 16
"""Of the last blocks that it has seen, number and key are kept."""


class Moved(Exception):
    """The index was built anew by another process in between."""


@dataclass(frozen=True)
class Reach:
    """How far the index goes."""

    count: int
    """Rows in it."""
    last: int
    """Number of the last block that it has looked at."""
    generation: int
    """Grows when it is built anew, under new file names."""
    learned: int
    """Blocks that its directions were learned from; 0 while it has none."""


class CoarseIndex:
    """The files of one store's index. Thread-safe; many processes may use and update it."""

    def __init__(self, folder: Path, identity: str, ranking: str = "cosine") -> None:
        """Open the index in a folder, or start one there; one of a store with another ``identity`` is built anew.

        Raises:
            ClaraError: the folder cannot be written to.
        """
        self.folder, self.ranking = folder, ranking
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClaraError(f"{folder} cannot be made for the search index ({error.strerror})") from error
        self._connections = Connections(folder / FILE)
        with self._connections.writing() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
            query = "SELECT name, value FROM about WHERE name NOT IN ('directions', 'tail')"
            about = dict(connection.execute(query).fetchall())
            if about.get("identity") != identity or about.get("format") != FORMAT or about.get("size") != SIZE:
                generation = int(about.get("generation", 0)) + 1
                _set(connection, identity=identity, format=FORMAT, size=SIZE)
                _start(connection, generation)
        self._maps: dict[tuple[int, str], Array] = {}
        self._learned: tuple[int, Directions] | None = None
        self._checked = False
        self._there: tuple[int, int, Array] | None = None
        """The store's generation, the highest number that it had given, and the numbers that it had."""
        self._places: tuple[Reach, Array | None] | None = None

    def reach(self) -> Reach:
        """How far it goes now."""
        with self._connections.reading() as connection:
            return _reach(connection)

    def update(self, store: DurableStore) -> Reach:
        """Take in the blocks that the store has got since; a few thousand at a time, each kept when it is done.

        It is built anew where it is another history's (of a folder that was copied while it was written), mostly of
        blocks that are gone, or learned from too few.
        """
        reach = self.reach()
        if not self._checked and reach.last and self._is_foreign(store, reach):
            reach = self.clear()
        self._checked = True
        rows = store.iterate(reach.last)
        while part := list(islice(rows, _AT_ONCE)):
            if 0 < reach.learned < _AT_ONCE and reach.count + len(part) >= _LEARN_AGAIN * reach.learned:
                reach = self.clear()
            elif self._append(part):
                reach = self.reach()
                continue
            reach = self.reach()  # another process may be at it: go on behind what it has done
            rows = store.iterate(reach.last)
        places = self.places(store, reach)
        if places is not None and reach.count > 2 * len(places) + _AT_ONCE:
            self.clear()
            return self.update(store)
        return reach

    def places(self, store: DurableStore, reach: Reach) -> Array | None:
        """The rows whose blocks are still there, rising; None for all. The store is asked when blocks have gone."""
        if not reach.count:
            return None
        generation = store.generation
        if self._there is None or self._there[0] != generation:
            last = store.last_number  # what comes now has a higher number
            self._there = generation, last, np.array(store.all_numbers(), dtype=np.int64)
            self._places = None
        if self._places is None or self._places[0] != reach:
            _, last, there = self._there
            numbers = self.numbers(reach)
            alive = (numbers > last) | np.isin(numbers, there, assume_unique=True)
            self._places = reach, None if alive.all() else np.flatnonzero(alive)
        return self._places[1]

    def _is_foreign(self, store: DurableStore, reach: Reach) -> bool:
        """Whether the last blocks that it has seen are not the store's; one that is still there tells."""
        with self._connections.reading() as connection:
            found = connection.execute("SELECT value FROM about WHERE name = 'tail'").fetchone()
        if found is None or reach.last > store.last_number:  # an older version kept no tail
            return reach.last > store.last_number
        tail = json.loads(found[0])
        there = {row.number: row.key for row in store.rows([number for number, _ in tail])}
        known = [there[number] == key for number, key in tail if number in there]
        return not known or not known[-1]

    def clear(self) -> Reach:
        """Begin anew, under other names of files: another process may be reading them."""
        with self._connections.writing() as connection:
            generation = _reach(connection).generation + 1
            _start(connection, generation)
        for path in self.folder.glob("*-*.bin"):
            number = path.name.partition("-")[0]
            if number.isdigit() and int(number) < generation:  # not those of a process that was quicker
                path.unlink(missing_ok=True)
        return self.reach()

    def _append(self, rows: list[Row]) -> bool:
        sketch = slot_signs if self.ranking == "late" else rotation
        sketches = np.concatenate([sketch(torch.stack(group)) for group in _of_one_shape(rows)])
        with self._connections.writing() as connection:
            reach = _reach(connection)
            if reach.last >= rows[0].number:
                return False
            numbers = np.array([row.number for row in rows], dtype=np.int64)
            if self.ranking == "late":
                _set(connection, slots=sketches.shape[1], sign_bytes=sketches.shape[2])
                files = {"slots": sketches}
            else:
                files = _projections(connection, reach, sketches)
            _write(self.folder, reach, {"numbers": numbers, **files})
            tail = json.dumps([(row.number, row.key) for row in rows[-_TAIL:]])
            _set(connection, count=reach.count + len(rows), last=rows[-1].number, tail=tail)
        return True

    def directions(self, reach: Reach) -> Directions:
        """In which its blocks differ; it must have some."""
        if self._learned is None or self._learned[0] != reach.generation:
            with self._connections.reading() as connection:
                self._learned = reach.generation, Directions.frombytes(_get(connection, "directions"))
        return self._learned[1]

    def numbers(self, reach: Reach) -> Array:
        """``[N]`` block numbers, rising."""
        return self._mapped(reach, "numbers", np.int64, 1)[: reach.count, 0]

    def bytes(self, reach: Reach) -> tuple[Array, Array]:
        """``[N, S]`` int8 and ``[N]`` float32, see `sketch.as_bytes`."""
        scales = self._mapped(reach, "scales", np.float32, 1)[: reach.count, 0]
        return self._mapped(reach, "bytes", np.int8, SIZE)[: reach.count], scales

    def signs(self, reach: Reach) -> Array:
        """``[N, G]`` uint8, see `Directions.signs`."""
        return self._mapped(reach, "signs", np.uint8, BITS // 8)[: reach.count]

    def slots(self, reach: Reach) -> Array:
        """``[N, M, G]`` uint8, see `sketch.slot_signs`; there must be some."""
        with self._connections.reading() as connection:
            slots, sign_bytes = _get(connection, "slots"), _get(connection, "sign_bytes")
        return self._mapped(reach, "slots", np.uint8, slots * sign_bytes)[: reach.count].reshape(-1, slots, sign_bytes)

    def _mapped(self, reach: Reach, name: str, dtype: type, width: int) -> Array:
        """``[rows, width]``; mapped anew where the file has grown."""
        key = (reach.generation, name)
        found = self._maps.get(key)
        if found is None or len(found) < reach.count:
            path = _path(self.folder, reach.generation, name)
            if self.reach().generation != reach.generation:
                raise Moved
            if not path.exists() or path.stat().st_size < reach.count * width * np.dtype(dtype).itemsize:
                raise ClaraError(f"{self.folder} is damaged ({path.name} is too short); delete it, it is built anew")
            try:
                mapped = np.asarray(np.memmap(path, dtype=dtype, mode="r"))  # a memmap object is slow to slice
            except FileNotFoundError:
                raise Moved from None
            self._maps[key] = found = mapped.reshape(-1, width)
        return found

    def close(self) -> None:
        """Let go of the files."""
        self._maps.clear()
        self._connections.close()


def _of_one_shape(rows: list[Row]) -> Iterator[list[torch.Tensor]]:
    """The vectors in groups that can be stacked, and are small enough to be rotated in one step."""
    group: list[torch.Tensor] = []
    for row in rows:
        full = group and (len(group) + 1) * row.block.vector.numel() > _ROTATED_AT_ONCE
        if full or (group and group[0].shape != row.block.vector.shape):
            yield group
            group = []
        group.append(row.block.vector)
    yield group


def _projections(connection: sqlite3.Connection, reach: Reach, rotations_NR: Array) -> dict[str, Array]:
    """What the files get for the cosine of whole blocks."""
    if not reach.learned:
        _set(connection, directions=Directions.learned(rotations_NR).tobytes(), learned=len(rotations_NR))
    directions = Directions.frombytes(_get(connection, "directions"))
    projections_NS = directions.document(rotations_NR)
    whole, scales = as_bytes(projections_NS)
    return {"bytes": whole, "scales": scales, "signs": directions.signs(projections_NS)}


def _path(folder: Path, generation: int, name: str) -> Path:
    return folder / f"{generation}-{name}.bin"


def _write(folder: Path, reach: Reach, files: dict[str, Array]) -> None:
    """Put rows behind what is there."""
    try:
        for name, values in files.items():
            row_bytes = values.nbytes // len(values)
            _put(_path(folder, reach.generation, name), reach.count * row_bytes, values)
    except OSError as error:
        raise ClaraError(
            f"{folder} cannot be written ({error.strerror}); free some room, or check its permissions"
        ) from error


def _put(path: Path, offset: int, values: Array) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        flat: Any = values
        write_all(file, memoryview(flat).cast("B"), offset)
    finally:
        os.close(file)


def _set(connection: sqlite3.Connection, **values: Any) -> None:
    connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", values.items())


def _get(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()[0]


def _start(connection: sqlite3.Connection, generation: int) -> None:
    _set(connection, generation=generation, count=0, last=0, learned=0)


def _reach(connection: sqlite3.Connection) -> Reach:
    query = "SELECT name, value FROM about WHERE name IN ('count', 'last', 'generation', 'learned')"
    return Reach(**dict(connection.execute(query).fetchall()))

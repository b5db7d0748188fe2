"""A store that machines share: two Lance data sets in a folder or on object storage (``s3://``, ``gs://``, ``az://``).

The package is ``pylance`` (extra ``lance``). Each call is one commit, which other machines see whole or not at all; two
that write at once are put one behind the other. A block's number is where Lance keeps it: larger for what comes later,
and new when the block is replaced or the store compacted, so that an index made from numbers finds its way.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from operator import methodcaller
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from clara_model.errors import ClaraError, needing
from clara_model.store.base import COLUMNS, BaseStore, document_values
from clara_model.store.encodings import EXACT, check_encoding, encode
from clara_model.store.filters import add_functions, condition, needed
from clara_model.store.protocol import (
    AT_ONCE,
    Block,
    Damage,
    MissingBlocks,
    Row,
    StoredDocument,
    StoreStats,
    Where,
    batches,
    check_fingerprint,
)

logger = logging.getLogger(__name__)

FORMAT = 1
_RETRIES = 30
"""Commits of others that a call of ours lets pass before it gives up."""
_PATIENCE = timedelta(minutes=10)
"""How long it lets them pass; on object storage a commit may take seconds."""
_FAILED = (OSError, RuntimeError, ValueError)
"""What Lance and Arrow raise."""
T = TypeVar("T")
_STORED = (*COLUMNS, "data")
_DOCUMENT = ("id", "digest", "metadata", "checksum", "keys", "starts", "ends")


class LanceStore(BaseStore):
    """A `DurableStore` in the data sets ``blocks.lance`` and ``documents.lance`` of a folder or URL. Thread-safe."""

    def __init__(self, url: str | Path, *, encoding: str | None = None, keep_text: bool | None = None) -> None:
        """Open the store at a URL, or start one there; arguments as for `SQLiteStore`.

        Raises:
            ClaraError: the package is missing, or the place cannot be used.
        """
        if encoding is not None:
            check_encoding(encoding)
        self.url = str(url).rstrip("/")
        self._closed = False
        self._fingerprint: str | None = None
        self._version = self._generation = 0
        self._writing = Lock()  # threads of one process would only make each other try again
        with self._named():
            if not exists(self.url):
                _create(self.url, encoding or EXACT, keep_text is not False)
            about = self._table("blocks").schema.metadata or {}
        about = {name.decode(): value.decode() for name, value in about.items()}
        if about.get("format") != str(FORMAT):
            own = about.get("format", "none")
            raise ClaraError(f"{self.url} has the format {own} and this version reads {FORMAT}; use a newer version")
        self.identity, self.encoding, self.keeps_text = (
            about["identity"],
            about["encoding"],
            about["keep_text"] == "True",
        )
        self._check_options(encoding, keep_text)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same place."""
        return type(self), (self.url,)

    @property
    def fingerprint(self) -> str | None:
        if self._fingerprint is None:
            with self._named():
                self._table("blocks")
        return self._fingerprint

    @property
    def generation(self) -> int:
        """Moves whenever blocks may have gone or got other numbers, as far as this object has seen."""
        return self._generation

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What Lance says about a place that cannot be used, in one sentence."""
        try:
            yield
        except ClaraError:
            raise
        except _FAILED as error:
            reason = " ".join(str(error).split())[:200]
            raise ClaraError(f"the store {self.url} cannot be used: {reason}") from error

    def _table(self, name: str) -> Any:
        """The newest state of a data set."""
        if self._closed:
            raise ClaraError(f"the store {self.url} is closed; open it again")
        table = _package().dataset(f"{self.url}/{name}.lance")
        if name == "blocks":
            self._fingerprint = table.config().get("fingerprint")
            if table.version > self._version:
                self._version, self._generation = table.version, self._generation + 1
        return table

    def _again(self, name: str, call: Callable[[Any], T]) -> T:
        """What a call makes of the newest state of a data set.

        Once more where another process has committed, or compacted that state away, in between.
        """
        with self._named():
            for turn in range(_RETRIES):
                table = self._table(name)
                try:
                    return call(table)
                except _FAILED as error:
                    moved = "conflict" in str(error).lower() or self._table(name).version > table.version
                    if not moved or turn == _RETRIES - 1:
                        raise
                    time.sleep(random.uniform(0, 0.05 * (turn + 1)))
        raise AssertionError("the last turn returns or raises")

    # -- blocks ------------------------------------------------------------------------------------------------

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        if not blocks:
            return
        encoded = {key: encode(block.vector, self.encoding) for key, block in blocks.items()}
        self._claim(fingerprint)
        rows = [(*self._values(fingerprint, key, blocks[key], one), bytes(one.data)) for key, one in encoded.items()]
        self._merge("blocks", "key", dict(zip(_STORED, zip(*rows, strict=True), strict=True)))
        self._claim(fingerprint)  # it may have been cleared in between

    def _claim(self, fingerprint: str) -> None:
        """Make the store this checkpoint's if it is nobody's."""
        for turn in range(_RETRIES):
            with self._named():
                table = self._table("blocks")
                if self._fingerprint is not None:
                    break
                try:
                    table.update_config({"fingerprint": fingerprint})
                    self._took_nothing(table)
                except OSError:  # another one was quicker: whose the store is now is read again
                    if turn == _RETRIES - 1:
                        raise
        check_fingerprint(self.url, self._fingerprint, fingerprint)

    def _merge(self, name: str, on: str, columns: Mapping[str, Sequence[Any]]) -> None:
        import pyarrow

        def merged(table: Any) -> None:
            new = pyarrow.table({column: list(values) for column, values in columns.items()}, schema=table.schema)
            merge = table.merge_insert(on).when_matched_update_all().when_not_matched_insert_all()
            done = merge.conflict_retries(_RETRIES).retry_timeout(_PATIENCE).execute(new)
            if name == "blocks" and not done["num_updated_rows"]:
                self._took_nothing(table)

        with self._writing:
            self._again(name, merged)

    def _took_nothing(self, table: Any) -> None:
        """A commit of ours after which all blocks that were there are there; others may have committed in between."""
        if table.version == self._version + 1:
            self._version = table.version

    def delete(self, keys: Sequence[str]) -> int:
        there = self.numbers(keys)
        for part in batches(there):
            self._delete("blocks", _in("key", part))
        return len(there)

    def _delete(self, name: str, test: str) -> None:
        with self._writing:
            self._again(name, methodcaller("delete", test, conflict_retries=_RETRIES, retry_timeout=_PATIENCE))

    def iterate(self, after: int = 0) -> Iterator[Row]:
        for page in self._pages(after):
            yield from self._intact(page)

    def numbers(self, keys: Sequence[str]) -> dict[str, int]:
        rows = self._read("blocks", _in_parts("key", list(dict.fromkeys(keys))), ["key"])
        return {row["key"]: row["_rowid"] + 1 for row in rows}

    def all_numbers(self) -> list[int]:
        found = self._again("blocks", methodcaller("to_table", columns=[], with_row_id=True))
        return sorted(row + 1 for row in found["_rowid"].to_pylist())

    @property
    def last_number(self) -> int:
        """No block has had a higher number: those of a fragment share its number's place."""
        parts = self._again("blocks", methodcaller("get_fragments"))
        return (max((part.fragment_id for part in parts), default=-1) + 1) << 32

    def _blocks(self, column: str, values: Sequence[Any]) -> Iterator[Row]:
        for part in batches(values):
            rows = part if column == "key" else [number - 1 for number in part]
            yield from self._intact(self._raw(_in("key" if column == "key" else "_rowid", rows)))

    def _pages(self, after: int) -> Iterator[list[tuple[Any, ...]]]:
        """All rows with a number above ``after``, in order. What is compacted meanwhile comes under its new number."""
        while page := self._raw(f"_rowid >= {after}", AT_ONCE):
            yield page
            after = page[-1][0]

    def _raw(self, test: str, limit: int | None = None) -> list[tuple[Any, ...]]:
        rows = self._read("blocks", [test], limit=limit)
        return [(row["_rowid"] + 1, *(row[name] for name in _STORED)) for row in rows]

    def _intact(self, raw: Sequence[tuple[Any, ...]]) -> list[Row]:
        rows, damaged = self._sorted(raw)
        self._warn(damaged)
        return rows

    def _data(self, *place: Any) -> bytes:
        return place[0]

    # -- documents ---------------------------------------------------------------------------------------------

    def record(self, documents: Sequence[StoredDocument]) -> None:
        """Keep documents, in place of what is there under their ids; blocks that only the old form had are deleted.

        Raises:
            MissingBlocks: a window's block is not in the store. Where another process has deleted it meanwhile, the
                documents are recorded all the same, for no commit covers both data sets; put it and call again.
        """
        if not documents:
            return
        ready = {one.id: (one, document_values(one)) for one in documents}
        wanted = {window.key: one.id for one, _ in ready.values() for window in one.windows}
        self._check_there(wanted)
        rows = self._read("documents", _in_parts("id", list(ready)), ["keys"])
        self._drop_unused({key for row in rows for key in row["keys"]} - wanted.keys(), ready.keys())
        new = [
            (*values, *([getattr(window, name) for window in one.windows] for name in ("key", "start", "end")))
            for one, values in ready.values()
        ]
        self._merge("documents", "id", dict(zip(_DOCUMENT, zip(*new, strict=True), strict=True)))
        self._check_there(wanted)

    def _check_there(self, wanted: Mapping[str, str]) -> None:
        there = self.numbers(list(wanted))
        if len(there) < len(wanted):
            raise MissingBlocks({key: one for key, one in wanted.items() if key not in there})

    def forget(self, ids: Sequence[str]) -> int:
        rows = self._read("documents", _in_parts("id", list(dict.fromkeys(ids))), ["id", "keys"])
        there = {row["id"]: row["keys"] for row in rows}
        self._drop_unused({key for keys in there.values() for key in keys}, there.keys())
        for part in batches(there):
            self._delete("documents", _in("id", part))
        return len(there)

    def _drop_unused(self, keys: set[str], ids: Collection[str]) -> None:
        """Delete those blocks that only these documents have, before the documents change: a call that is killed in
        between is made good by calling again, and no block is left that nothing would ever delete.

        What a document has got that was recorded in between is put back from the state before. Who records looks for
        its blocks when it is done, so that one of the two sees what the other has done.
        """
        unused = keys - self._used(keys, ids)
        if unused:
            with self._named():
                before = self._table("blocks")
            self.delete(sorted(unused))
            for part in batches(sorted(self._used(unused, ids))):
                try:
                    rows = before.to_table(filter=_in("key", part)).to_pydict()
                except _FAILED as error:  # a third one has compacted that state away; the next `compress` makes them
                    logger.warning("%s: blocks of documents that were recorded just now are gone: %s", self.url, error)
                else:
                    self._merge("blocks", "key", rows)

    def _used(self, keys: set[str], but: Collection[str]) -> set[str]:
        """Those that a document has, these documents apart."""
        rows = self._read("documents", _with_keys(sorted(keys)), ["id", "keys"])
        return {key for row in rows if row["id"] not in but for key in row["keys"]} & keys

    def digests(self) -> dict[str, str]:
        return {row["id"]: row["digest"] for row in self._read("documents", [None], ["id", "digest"])}

    def documents(self) -> Iterator[StoredDocument]:
        for part in batches(sorted(self.digests())):
            yield from self._documents([_in("id", part)])

    def _documents(self, tests: Sequence[str | None], damaged: list[Damage] | None = None) -> list[StoredDocument]:
        rows = self._read("documents", tests)
        return self._documents_of((tuple(row[name] for name in _DOCUMENT) for row in rows), damaged)

    def _fitting(self, where: Where | None, document: str | None, keys: list[str] | None) -> list[StoredDocument]:
        tests: list[str | None] = [None] if keys is None else [*_with_keys(keys)]
        if document is not None:
            tests = [_in("id", [document])]
        if where:
            tests = [*_in_parts("id", [one for test in tests for one in self._ids(where, test)])]
        return self._documents(tests)

    def matching(self, where: Where) -> list[int]:
        ids = self._ids(where)
        keys = {key for row in self._read("documents", _in_parts("id", ids), ["keys"]) for key in row["keys"]}
        return sorted(self.numbers(list(keys)).values())

    def _ids(self, where: Where, test: str | None = None) -> list[str]:
        """The ids of the documents whose metadata fit: Lance looks for the texts, SQLite for the one meaning."""
        sql, values = condition(where)
        holding = [" OR ".join(f"contains(metadata, {_listed([one])})" for one in some) for some in needed(where)]
        tests = " AND ".join(f"({one})" for one in [*([test] if test else []), *holding])
        with closing(sqlite3.connect(":memory:")) as scratch:
            add_functions(scratch)
            scratch.execute("CREATE TABLE d (id TEXT, metadata TEXT)")
            rows = (
                (row["id"], row["metadata"]) for row in self._read("documents", [tests or None], ["id", "metadata"])
            )
            scratch.executemany("INSERT INTO d VALUES (?, ?)", rows)
            return [one for (one,) in scratch.execute(f"SELECT id FROM d WHERE {sql}", values)]

    def _read(
        self, name: str, tests: Sequence[str | None], columns: list[str] | None = None, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        for test in tests:
            read = methodcaller("to_table", columns=columns, filter=test, limit=limit, with_row_id=True)
            for batch in self._again(name, read).to_batches(AT_ONCE):
                yield from batch.to_pylist()

    # -- the whole ---------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """What it holds; the bytes of older versions, which `compact` removes, are counted where it is a folder."""
        if Path(self.url).is_dir():
            nbytes = sum(_size(Path(self.url) / f"{name}.lance") for name in ("blocks", "documents"))
        else:
            tables = [self._again(name, methodcaller("get_fragments")) for name in ("blocks", "documents")]
            nbytes = sum(file.file_size_bytes or 0 for parts in tables for part in parts for file in part.data_files())
        blocks, documents = (self._again(name, methodcaller("count_rows")) for name in ("blocks", "documents"))
        return StoreStats(self.url, self.fingerprint, self.encoding, self.keeps_text, blocks, documents, nbytes, FORMAT)

    def compact(self) -> None:
        """Few large files in place of many small ones, indexes, and no older versions; numbers change."""
        indexes = (("blocks", "key", "BTREE"), ("documents", "id", "BTREE"), ("documents", "keys", "LABEL_LIST"))
        for name in ("blocks", "documents"):
            self._again(name, lambda table: table.optimize.compact_files())
        for name, column, kind in indexes:
            self._again(name, methodcaller("create_scalar_index", column, kind, replace=True))
        self._forget_versions()

    def _forget_versions(self) -> None:
        for name in ("blocks", "documents"):
            self._again(name, methodcaller("cleanup_old_versions", older_than=timedelta(0)))

    def clear(self) -> None:
        for name in ("documents", "blocks"):
            self._delete(name, "true")
        self._again("blocks", methodcaller("delete_config_keys", ["fingerprint"]))
        self._forget_versions()

    def verify(self, documents: Sequence[str] | None = None, *, mend: bool = False) -> list[Damage]:
        damages: list[Damage] = []
        tests: list[str | None] = [None] if documents is None else [*_in_parts("id", documents)]
        try:
            named = {key for row in self._read("documents", tests, ["keys"]) for key in row["keys"]}
            pages = self._pages(0) if documents is None else map(self._raw, _in_parts("key", sorted(named)))
            there: set[str] = set()
            for page in pages:
                rows, bad = self._sorted(page)
                there.update(row.key for row in rows)
                damages += bad
            reported = set() if mend else {one.where for one in damages}
            if mend:
                self.delete(sorted(one.where for one in damages))
            lost: list[Damage] = []
            whole = self._documents(tests, lost)
            if mend:
                self.forget([one.where for one in lost])
            damages += lost
            damages += [
                Damage(one.id, f"the latents of its window {number} are not there")
                for one in whole
                for number, window in enumerate(one.windows)
                if window.key not in there and window.key not in reported
            ]
        except ClaraError as error:
            damages.append(Damage(self.url, str(error)))
        return damages

    def close(self) -> None:
        self._closed = True


def exists(url: str) -> bool:
    """Whether a store is there.

    Raises:
        ClaraError: the package is missing.
    """
    try:
        _package().dataset(f"{url.rstrip('/')}/documents.lance")
    except ValueError:  # how Lance says that there is none
        return False
    return True


def _package() -> Any:
    with needing("a Lance store", "pylance", "lance"):
        import lance
    return lance


def _create(url: str, encoding: str, keep_text: bool) -> None:
    """Two empty data sets; the one of the documents last, it says that all is there."""
    import pyarrow as pa

    about = {"format": str(FORMAT), "identity": uuid.uuid4().hex, "encoding": encoding, "keep_text": str(keep_text)}
    once = {"lance-schema:unenforced-primary-key": "true"}  # two calls that bring the same key at once see each other
    text, whole, data = pa.string(), pa.int64(), pa.binary()
    types = [whole, pa.int32(), pa.int32(), text, text, data, text, pa.large_binary()]
    key = pa.field("key", text, nullable=False, metadata=once)
    blocks = pa.schema([key, *zip(_STORED[1:], types, strict=True)], metadata=about)
    types = [text, text, data, pa.list_(text), pa.list_(whole), pa.list_(whole)]
    documents = pa.schema([key.with_name("id"), *zip(_DOCUMENT[1:], types, strict=True)])
    for name, schema in (("blocks", blocks), ("documents", documents)):
        try:
            _package().write_dataset(schema.empty_table(), f"{url}/{name}.lance", schema=schema, mode="create")
        except OSError as error:
            if "already exists" not in str(error):  # another process was quicker: the store is its
                raise


def _size(folder: Path) -> int:
    """Bytes of its files, without those that another process deletes meanwhile."""
    found = 0
    for here, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found += os.stat(os.path.join(here, name)).st_size
    return found


def _listed(values: Iterable[str | int]) -> str:
    return ", ".join(str(one) if isinstance(one, int) else "'" + one.replace("'", "''") + "'" for one in values)


def _in(column: str, values: Iterable[str | int]) -> str:
    return f"{column} IN ({_listed(values)})"


def _in_parts(column: str, values: Sequence[str]) -> list[str]:
    return [_in(column, part) for part in batches(values)]


def _with_keys(keys: Sequence[str]) -> list[str]:
    return [f"array_has_any(keys, make_array({_listed(part)}))" for part in batches(keys)]

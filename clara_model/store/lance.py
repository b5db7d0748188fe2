"""A store that machines share: two Lance data sets in a folder or on object storage (``s3://``, ``gs://``, ``az://``).

The package is ``pylance`` (extra ``lance``). Each call is one commit, which other machines see whole or not at all; two
that write at once are put one behind the other. A block's number is where Lance keeps it: larger for what comes later,
and new when the block is replaced or the store compacted, so that an index made from numbers finds its way. Leaves out
an index of Lance's own: search reads the coarse index (`clara_model.search`), which lies in the user's cache folder.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from itertools import chain
from operator import methodcaller
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from clara_model.errors import ClaraError
from clara_model.store.encodings import (
    EXACT,
    EncodedBlock,
    check_encoding,
    checksum,
    decode,
    document_checksum,
    dump_metadata,
    encode,
)
from clara_model.store.filters import add_functions, condition, needed
from clara_model.store.protocol import (
    AT_ONCE,
    Block,
    Damage,
    DurableStore,
    MissingBlocks,
    Row,
    StoredDocument,
    StoreStats,
    Where,
    batches,
    check_fingerprint,
    check_options,
    placed,
)
from clara_model.windows import Window

logger = logging.getLogger(__name__)

FORMAT = 1
_RETRIES = 30
"""Commits of others that a call of ours lets pass before it gives up."""
_PATIENCE = timedelta(minutes=10)
"""How long it lets them pass; on object storage a commit may take seconds."""
_FAILED = (OSError, RuntimeError, ValueError)
"""What Lance and Arrow raise."""
T = TypeVar("T")
_BLOCK = "key length slots width encoding dtype checksum text data".split()


class LanceStore(DurableStore):
    """A `DurableStore` in the data sets ``blocks.lance`` and ``documents.lance`` of a folder or URL. Thread-safe."""

    def __init__(self, url: str | Path, *, encoding: str | None = None, keep_text: bool | None = None) -> None:
        """Open the store at a URL, or start one there; arguments as for `SQLiteStore`.

        Raises:
            ClaraError: the package is missing, or the place cannot be used.
        """
        if encoding is not None:
            check_encoding(encoding)
        self._url = str(url).rstrip("/")
        self._closed = False
        self._fingerprint: str | None = None
        self._version = self._generation = 0
        self._writing = Lock()  # threads of one process would only make each other try again
        with self._named():
            if not exists(self._url):
                _create(self._url, encoding or EXACT, keep_text is not False)
            about = self._table("blocks").schema.metadata or {}
        self._about = {name.decode(): value.decode() for name, value in about.items()}
        if self._about.get("format") != str(FORMAT):
            own = self._about.get("format", "none")
            raise ClaraError(f"{self._url} has the format {own} and this version reads {FORMAT}; use a newer version")
        self._encoding, self._keeps_text = self._about["encoding"], self._about["keep_text"] == "True"
        own = {"encoding": self._encoding, "keep_text": self._keeps_text}
        check_options(self._url, {"encoding": encoding, "keep_text": keep_text}, own)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same place."""
        return type(self), (self._url,)

    @property
    def url(self) -> str:
        return self._url

    @property
    def identity(self) -> str:
        return self._about["identity"]

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
            raise ClaraError(f"the store {self._url} cannot be used: {reason}") from error

    def _table(self, name: str) -> Any:
        """The newest state of a data set."""
        if self._closed:
            raise ClaraError(f"the store {self._url} is closed; open it again")
        table = _package().dataset(f"{self._url}/{name}.lance")
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

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        if self.fingerprint is None:
            return [None] * len(keys)
        found: dict[str, Block] = {}
        for part in batches(dict.fromkeys(keys)):
            found.update((row.key, row.block) for row in self._intact(self._raw(_in("key", part))))
        check_fingerprint(self._url, self._fingerprint, fingerprint)
        return [found.get(key) for key in keys]

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        if not blocks:
            return
        encoded = {key: encode(block.vector, self._encoding) for key, block in blocks.items()}
        self._claim(fingerprint)
        rows = [self._values(key, block, encoded[key]) for key, block in blocks.items()]
        self._merge("blocks", "key", dict(zip(_BLOCK, zip(*rows, strict=True), strict=True)))
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
        check_fingerprint(self._url, self._fingerprint, fingerprint)

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

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        found: dict[int, Row] = {}
        for part in batches(dict.fromkeys(numbers)):
            test = f"_rowid IN ({', '.join(str(number - 1) for number in part)})"
            found.update((row.number, row) for row in self._intact(self._raw(test)))
        return [found[number] for number in numbers if number in found]

    def numbers(self, keys: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for part in batches(dict.fromkeys(keys)):
            found.update((row["key"], row["_rowid"] + 1) for row in self._raw(_in("key", part), ["key"]))
        return found

    def all_numbers(self) -> list[int]:
        found = self._again("blocks", methodcaller("to_table", columns=[], with_row_id=True))
        return sorted(row + 1 for row in found["_rowid"].to_pylist())

    @property
    def last_number(self) -> int:
        """No block has had a higher number: those of a fragment share its number's place."""
        parts = self._again("blocks", methodcaller("get_fragments"))
        return (max((part.fragment_id for part in parts), default=-1) + 1) << 32

    def _pages(self, after: int) -> Iterator[list[dict[str, Any]]]:
        """All rows with a number above ``after``, in order. What is compacted meanwhile comes under its new number."""
        while page := self._raw(f"_rowid >= {after}", limit=AT_ONCE):
            yield page
            after = page[-1]["_rowid"] + 1

    def _raw(self, test: str, columns: list[str] | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        read = methodcaller("to_table", columns=columns, filter=test, limit=limit, with_row_id=True)
        return self._again("blocks", read).to_pylist()

    def _intact(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
        """Those that are as they were written; others are named in a warning."""
        for values in rows:
            try:
                yield self._row(values)
            except (ValueError, TypeError) as error:
                logger.warning("%s: block %s is left out: %s", self._url, values["key"], error)

    def _row(self, values: Mapping[str, Any]) -> Row:
        if values["checksum"] != self._checksum(values):
            raise ValueError("its bytes have changed since they were written")
        one = EncodedBlock(values["data"], values["encoding"], values["dtype"], values["slots"], values["width"])
        return Row(values["_rowid"] + 1, values["key"], Block(decode(one), values["length"], values["text"]))

    def _values(self, key: str, block: Block, one: EncodedBlock) -> tuple[Any, ...]:
        text = block.text if self._keeps_text else None
        if text is not None:
            text = text.encode("utf-8", "replace").decode()  # Arrow takes no lone surrogates
        values = (key, block.length, one.slots, one.width, one.encoding, one.dtype, b"", text, bytes(one.data))
        kept = self._checksum(dict(zip(_BLOCK, values, strict=True)))
        return *values[:6], kept, *values[7:]

    def _checksum(self, values: Mapping[str, Any]) -> bytes:
        about = (values[name] for name in _BLOCK if name not in ("checksum", "data"))
        return checksum(values["data"], self.fingerprint, *about)

    # -- documents ---------------------------------------------------------------------------------------------

    def record(self, documents: Sequence[StoredDocument]) -> None:
        """Keep documents, in place of what is there under their ids; blocks that only the old form had are deleted.

        Raises:
            MissingBlocks: a window's block is not in the store. Where another process has deleted it meanwhile, the
                documents are recorded all the same, for no commit covers both data sets; put it and call again.
        """
        if not documents:
            return
        ready = {one.id: (one, dump_metadata(one.metadata)) for one in documents}
        wanted = {window.key: one.id for one, _ in ready.values() for window in one.windows}
        self._check_there(wanted)
        before = {key for row in self._read(_in_parts("id", list(ready)), ["keys"]) for key in row["keys"]}
        self._drop_unused(before - wanted.keys(), ready.keys())
        columns: dict[str, list[Any]] = {name: [] for name in ("id", "digest", "metadata", "checksum")}
        columns |= {"keys": [], "starts": [], "ends": []}
        for one, metadata in ready.values():
            values = (one.id, one.digest, metadata, document_checksum(one.id, one.digest, metadata, one.windows))
            windows = ([getattr(window, name) for window in one.windows] for name in ("key", "start", "end"))
            for name, value in zip(columns, (*values, *windows), strict=True):
                columns[name].append(value)
        self._merge("documents", "id", columns)
        self._check_there(wanted)

    def _check_there(self, wanted: Mapping[str, str]) -> None:
        there = self.numbers(list(wanted))
        if len(there) < len(wanted):
            raise MissingBlocks({key: one for key, one in wanted.items() if key not in there})

    def forget(self, ids: Sequence[str]) -> int:
        rows = self._read(_in_parts("id", list(dict.fromkeys(ids))), ["id", "keys"])
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
                    logger.warning("%s: blocks of documents that were recorded just now are gone: %s", self._url, error)
                else:
                    self._merge("blocks", "key", rows)

    def _used(self, keys: set[str], but: Collection[str]) -> set[str]:
        """Those that a document has, these documents apart."""
        rows = self._read(_with_keys(sorted(keys)), ["id", "keys"])
        return {key for row in rows if row["id"] not in but for key in row["keys"]} & keys

    def digests(self) -> dict[str, str]:
        return {row["id"]: row["digest"] for row in self._read([None], ["id", "digest"])}

    def documents(self) -> Iterator[StoredDocument]:
        for part in batches(sorted(self.digests())):
            yield from self._documents([_in("id", part)])

    def _documents(self, tests: Sequence[str | None], damaged: list[Damage] | None = None) -> list[StoredDocument]:
        """Those that are as they were written, by id; the others go into ``damaged``, or are named in a warning."""
        found = {}
        for row in self._read(tests):
            try:
                found[row["id"]] = _document(row)
            except (ValueError, TypeError) as error:
                if damaged is None:
                    logger.warning("%s: document %s is left out: %s", self._url, row["id"], error)
                else:
                    damaged.append(Damage(row["id"], str(error)))
        return [found[one] for one in sorted(found)]

    def find(self, document: str | None = None, where: Where | None = None) -> list[Window]:
        test = None if document is None else _in("id", [document])
        tests = [test] if not where else _in_parts("id", self._fitting(where, test))
        return [place for one in self._documents(tests) for place in placed(one)]

    def places(self, keys: Sequence[str], where: Where | None = None) -> list[Window]:
        tests: list[str | None] = list(_with_keys(list(dict.fromkeys(keys))))
        if where:
            tests = list(_in_parts("id", [one for test in tests for one in self._fitting(where, test)]))
        found: dict[str, list[Window]] = {key: [] for key in keys}
        for one in self._documents(tests):
            for place in placed(one):
                if place.key in found:
                    found[place.key].append(place)
        return [one for key in keys for one in found[key]]

    def matching(self, where: Where) -> list[int]:
        ids = self._fitting(where)
        keys = {key for row in self._read(_in_parts("id", ids), ["keys"]) for key in row["keys"]}
        return sorted(self.numbers(list(keys)).values())

    def _fitting(self, where: Where, test: str | None = None) -> list[str]:
        """The ids of the documents whose metadata fit: Lance looks for the texts, SQLite for the one meaning."""
        sql, values = condition(where)
        holding = [" OR ".join(f"contains(metadata, {_quoted(one)})" for one in some) for some in needed(where)]
        tests = " AND ".join(f"({one})" for one in [*([test] if test else []), *holding])
        with closing(sqlite3.connect(":memory:")) as scratch:
            add_functions(scratch)
            scratch.execute("CREATE TABLE d (id TEXT, metadata TEXT)")
            rows = ((row["id"], row["metadata"]) for row in self._read([tests or None], ["id", "metadata"]))
            scratch.executemany("INSERT INTO d VALUES (?, ?)", rows)
            return [one for (one,) in scratch.execute(f"SELECT id FROM d WHERE {sql}", values)]

    def _read(self, tests: Sequence[str | None], columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        for test in tests:
            found = self._again("documents", methodcaller("to_table", columns=columns, filter=test))
            for batch in found.to_batches(AT_ONCE):
                yield from batch.to_pylist()

    # -- the whole ---------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """What it holds; the bytes of older versions, which `compact` removes, are counted where it is a folder."""
        if Path(self._url).is_dir():
            nbytes = sum(_size(Path(self._url) / f"{name}.lance") for name in ("blocks", "documents"))
        else:
            tables = [self._again(name, methodcaller("get_fragments")) for name in ("blocks", "documents")]
            nbytes = sum(file.file_size_bytes or 0 for parts in tables for part in parts for file in part.data_files())
        blocks, documents = (self._again(name, methodcaller("count_rows")) for name in ("blocks", "documents"))
        return StoreStats(
            self._url, self.fingerprint, self._encoding, self._keeps_text, blocks, documents, nbytes, FORMAT
        )

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
        lost: list[Damage] = []
        tests: list[str | None] = [None] if documents is None else list(_in_parts("id", documents))
        try:
            named = {key for row in self._read(tests, ["keys"]) for key in row["keys"]}
            parts = self._pages(0) if documents is None else map(self._raw, _in_parts("key", sorted(named)))
            there = set()
            for values in chain.from_iterable(parts):
                try:
                    self._row(values)
                    there.add(values["key"])
                except (ValueError, TypeError) as error:
                    damages.append(Damage(values["key"], str(error)))
            bad = {one.where for one in damages}
            if mend:
                self.delete(sorted(bad))
            whole = self._documents(tests, lost)
            if mend:
                self.forget([one.where for one in lost])
            missing = [
                Damage(one.id, f"the latents of its window {number} are not there")
                for one in whole
                for number, window in enumerate(one.windows)
                if window.key not in there and (mend or window.key not in bad)
            ]
            damages += lost + missing
        except ClaraError as error:
            damages.append(Damage(self._url, str(error)))
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
    try:
        import lance
    except ImportError as error:
        raise ClaraError(
            "a Lance store needs the package pylance; install it with: pip install 'clara-integrations[lance]'"
        ) from error
    return lance


def _create(url: str, encoding: str, keep_text: bool) -> None:
    """Two empty data sets; the one of the documents last, it says that all is there."""
    import pyarrow as pa

    about = {"format": str(FORMAT), "identity": uuid.uuid4().hex, "encoding": encoding, "keep_text": str(keep_text)}
    types = [pa.string(), pa.int64(), pa.int32(), pa.int32(), pa.string(), pa.string(), pa.binary(), pa.string()]
    once = {"lance-schema:unenforced-primary-key": "true"}  # two calls that bring the same key at once see each other
    columns = list(zip(_BLOCK, [*types, pa.large_binary()], strict=True))[1:]
    blocks = pa.schema([pa.field("key", pa.string(), nullable=False, metadata=once), *columns], metadata=about)
    names = [
        pa.field("id", pa.string(), nullable=False, metadata=once),
        ("digest", pa.string()),
        ("metadata", pa.string()),
        ("checksum", pa.binary()),
    ]
    whole = pa.list_(pa.int64())
    documents = pa.schema([*names, ("keys", pa.list_(pa.string())), ("starts", whole), ("ends", whole)])
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


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _in(column: str, values: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(map(_quoted, values))})"


def _in_parts(column: str, values: Sequence[str]) -> list[str]:
    return [_in(column, part) for part in batches(values)]


def _with_keys(keys: Sequence[str]) -> list[str]:
    return [f"array_has_any(keys, make_array({', '.join(map(_quoted, part))}))" for part in batches(keys)]


def _document(row: Mapping[str, Any]) -> StoredDocument:
    windows = tuple(map(Window, row["keys"], row["starts"], row["ends"]))
    if row["checksum"] != document_checksum(row["id"], row["digest"], row["metadata"], windows):
        raise ValueError("it has changed since it was written")
    return StoredDocument(row["id"], windows, row["digest"], json.loads(row["metadata"]))

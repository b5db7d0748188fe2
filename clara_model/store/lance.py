"""A store that machines share: two Lance data sets in a folder or on object storage (``s3://``, ``gs://``, ``az://``).

The package is ``pylance`` (extra ``lance``). Each call is one commit, which other machines see whole or not at all; two
that write at once are put one behind the other. A block's number is where Lance keeps it: larger for what comes later,
and new when the block is replaced or the store compacted, so that an index made from numbers finds its way. Leaves out
an index of Lance's own: search reads the coarse index (`clara_model.search`), which lies in the user's cache folder.
"""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from operator import methodcaller
from pathlib import Path
from threading import Lock
from typing import Any, Self

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
    Block,
    Damage,
    MissingBlocks,
    Row,
    StoredDocument,
    StoreStats,
    Where,
    check_fingerprint,
    placed,
)
from clara_model.windows import Window

logger = logging.getLogger(__name__)

FORMAT = 1
_AT_ONCE = 256
_RETRIES = 30
"""Commits of others that a call of ours lets pass before it gives up."""
_PATIENCE = timedelta(minutes=10)
"""How long it lets them pass; on object storage a commit may take seconds."""
_BLOCK = "key length slots width encoding dtype checksum text data".split()


class LanceStore:
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
        for name, asked, kept in (
            ("encoding", encoding, self._encoding),
            ("keep_text", keep_text, self._keeps_text),
        ):
            if asked is not None and asked != kept:
                raise ClaraError(
                    f"{self._url} has {name} {kept} and {asked} was asked for; leave {name} out, or copy the store"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same place."""
        return type(self), (self._url,)

    @property
    def url(self) -> str:
        """The folder or URL."""
        return self._url

    @property
    def identity(self) -> str:
        """A name that no other store has."""
        return self._about["identity"]

    @property
    def fingerprint(self) -> str | None:
        """Of the checkpoint whose latents it holds; None before the first `put`."""
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
        except (OSError, RuntimeError, ValueError) as error:
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

    # -- blocks ------------------------------------------------------------------------------------------------

    def get(self, fingerprint: str, keys: Sequence[str]) -> list[Block | None]:
        """The blocks of these keys, ``None`` where there is none or it is damaged (which is logged)."""
        if self.fingerprint is None:
            return [None] * len(keys)
        found: dict[str, Block] = {}
        for part in _parts(list(dict.fromkeys(keys))):
            found.update((row.key, row.block) for row in self._rows(_in("key", part)))
        check_fingerprint(self._url, self._fingerprint, fingerprint)
        return [found.get(key) for key in keys]

    def put(self, fingerprint: str, blocks: Mapping[str, Block]) -> None:
        """Keep blocks in one commit, in place of what is there under their keys; all or none."""
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

        with self._named(), self._writing:
            table = self._table(name)
            new = pyarrow.table({column: list(values) for column, values in columns.items()}, schema=table.schema)
            merge = table.merge_insert(on).when_matched_update_all().when_not_matched_insert_all()
            done = merge.conflict_retries(_RETRIES).retry_timeout(_PATIENCE).execute(new)
            if name == "blocks" and not done["num_updated_rows"]:
                self._took_nothing(table)

    def _took_nothing(self, table: Any) -> None:
        """A commit of ours after which all blocks that were there are there; others may have committed in between."""
        if table.version == self._version + 1:
            self._version = table.version

    def delete(self, keys: Sequence[str]) -> int:
        """Forget blocks; how many there were."""
        there = self.numbers(keys)
        for part in _parts(list(there)):
            self._delete("blocks", _in("key", part))
        return len(there)

    def _delete(self, name: str, test: str) -> None:
        with self._named(), self._writing:
            self._table(name).delete(test, conflict_retries=_RETRIES, retry_timeout=_PATIENCE)

    def iterate(self, after: int = 0) -> Iterator[Row]:
        """All blocks with a number above ``after``, in order, without damaged ones."""
        yield from self._rows(f"_rowid >= {after}")

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """The blocks with these numbers, in this order, without those that are gone or damaged."""
        found: dict[int, Row] = {}
        for part in _parts(list(dict.fromkeys(numbers))):
            test = f"_rowid IN ({', '.join(str(number - 1) for number in part)})"
            found.update((row.number, row) for row in self._rows(test))
        return [found[number] for number in numbers if number in found]

    def numbers(self, keys: Sequence[str]) -> dict[str, int]:
        """The number of each key that is there."""
        found: dict[str, int] = {}
        with self._named():
            table = self._table("blocks")
            for part in _parts(list(dict.fromkeys(keys))):
                rows = table.to_table(columns=["key"], filter=_in("key", part), with_row_id=True).to_pydict()
                found.update(zip(rows["key"], (row + 1 for row in rows["_rowid"]), strict=True))
        return found

    def all_numbers(self) -> list[int]:
        """The numbers of all blocks, rising."""
        with self._named():
            found = self._table("blocks").to_table(columns=[], with_row_id=True)["_rowid"]
        return sorted(row + 1 for row in found.to_pylist())

    @property
    def last_number(self) -> int:
        """No block has had a higher number: those of a fragment share its number's place."""
        with self._named():
            parts = self._table("blocks").get_fragments()
        return (max((part.fragment_id for part in parts), default=-1) + 1) << 32

    def _raw(self, test: str, table: Any = None) -> Iterator[dict[str, Any]]:
        with self._named():
            scan = (table or self._table("blocks")).scanner(filter=test, with_row_id=True, batch_size=_AT_ONCE)
            for batch in scan.to_batches():
                yield from batch.to_pylist()

    def _rows(self, test: str) -> Iterator[Row]:
        """The intact rows; others are named in a warning."""
        for values in self._raw(test):
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
        columns: dict[str, list[Any]] = {name: [] for name in ("id", "digest", "metadata", "checksum")}
        columns |= {"keys": [], "starts": [], "ends": []}
        for one, metadata in ready.values():
            values = (one.id, one.digest, metadata, document_checksum(one.id, one.digest, metadata, one.windows))
            windows = ([getattr(window, name) for window in one.windows] for name in ("key", "start", "end"))
            for name, value in zip(columns, (*values, *windows), strict=True):
                columns[name].append(value)
        self._merge("documents", "id", columns)
        self._drop_unused(before - wanted.keys())
        self._check_there(wanted)

    def _check_there(self, wanted: Mapping[str, str]) -> None:
        there = self.numbers(list(wanted))
        if len(there) < len(wanted):
            raise MissingBlocks({key: one for key, one in wanted.items() if key not in there})

    def forget(self, ids: Sequence[str]) -> int:
        """Delete documents, and the blocks that no other document has; how many documents there were."""
        there = list(self._read(_in_parts("id", list(dict.fromkeys(ids))), ["id", "keys"]))
        for part in _parts([row["id"] for row in there]):
            self._delete("documents", _in("id", part))
        self._drop_unused({key for row in there for key in row["keys"]})
        return len(there)

    def _drop_unused(self, keys: set[str]) -> None:
        """Delete those blocks that no document has any more.

        What a document has got that was recorded in between is put back from the state before. Who records looks for
        its blocks when it is done, so that one of the two sees what the other has done.
        """
        unused = keys - self._used(keys)
        if unused:
            with self._named():
                before = self._table("blocks")
            self.delete(sorted(unused))
            for part in _parts(sorted(self._used(unused))):
                rows = list(self._raw(_in("key", part), before))
                self._merge("blocks", "key", {name: [row[name] for row in rows] for name in _BLOCK})

    def _used(self, keys: set[str]) -> set[str]:
        """Those that a document has."""
        return {key for row in self._read(_with_keys(sorted(keys)), ["keys"]) for key in row["keys"]} & keys

    def digests(self) -> dict[str, str]:
        """The digest of every document by id."""
        with self._named():
            rows = self._table("documents").to_table(columns=["id", "digest"]).to_pydict()
        return dict(zip(rows["id"], rows["digest"], strict=True))

    def documents(self) -> Iterator[StoredDocument]:
        """All documents, in the order of their ids; damaged ones are named in a warning and left out."""
        for part in _parts(sorted(self.digests())):
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
        """The windows of one document, or of those whose metadata fit (`clara_model.store.filters`), in order."""
        test = None if document is None else _in("id", [document])
        tests = [test] if not where else _in_parts("id", self._fitting(where, test))
        return [place for one in self._documents(tests) for place in placed(one)]

    def places(self, keys: Sequence[str], where: Where | None = None) -> list[Window]:
        """Every place where these blocks stand, in documents whose metadata fit, in the order of the keys."""
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
        """The numbers of the blocks that stand in a document whose metadata fit, rising."""
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
        with self._named():
            table = self._table("documents")
            for test in tests:
                for batch in table.scanner(columns=columns, filter=test, batch_size=_AT_ONCE).to_batches():
                    yield from batch.to_pylist()

    # -- the whole ---------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """What it holds; the bytes of older versions, which `compact` removes, are counted where it is a folder."""
        with self._named():
            blocks, documents = (self._table(name) for name in ("blocks", "documents"))
            if Path(self._url).is_dir():
                nbytes = sum(file.stat().st_size for file in Path(self._url).glob("*.lance/**/*") if file.is_file())
            else:
                parts = [part for table in (blocks, documents) for part in table.get_fragments()]
                nbytes = sum(file.file_size_bytes or 0 for part in parts for file in part.data_files())
            counts = blocks.count_rows(), documents.count_rows()
        return StoreStats(self._url, self.fingerprint, self._encoding, self._keeps_text, *counts, nbytes, FORMAT)

    def compact(self) -> None:
        """Few large files in place of many small ones, indexes, and no older versions; numbers change."""
        indexes = (("blocks", "key", "BTREE"), ("documents", "id", "BTREE"), ("documents", "keys", "LABEL_LIST"))
        for name in ("blocks", "documents"):
            self._again(name, lambda table: table.optimize.compact_files())
        for name, column, kind in indexes:
            self._again(name, methodcaller("create_scalar_index", column, kind, replace=True))
        self._forget_versions()

    def _again(self, name: str, change: Callable[[Any], object]) -> None:
        """Change a data set; once more where another process has committed in between."""
        with self._named():
            for turn in range(_RETRIES):
                try:
                    change(self._table(name))
                    return
                except OSError as error:
                    if "conflict" not in str(error).lower() or turn == _RETRIES - 1:
                        raise
                    time.sleep(random.uniform(0, 0.05 * (turn + 1)))

    def _forget_versions(self) -> None:
        for name in ("blocks", "documents"):
            self._again(name, methodcaller("cleanup_old_versions", older_than=timedelta(0)))

    def clear(self) -> None:
        """Delete everything; another checkpoint may fill it. Who has it open goes on in the empty store."""
        for name in ("documents", "blocks"):
            self._delete(name, "true")
        self._again("blocks", methodcaller("delete_config_keys", ["fingerprint"]))
        self._forget_versions()

    def verify(self, documents: Sequence[str] | None = None, *, mend: bool = False) -> list[Damage]:
        """Read everything, or these documents with their blocks; what is damaged or missing.

        Args:
            documents: their ids.
            mend: drop what is damaged, so that the next `clara compress` makes it anew.
        """
        damages: list[Damage] = []
        lost: list[Damage] = []
        tests: list[str | None] = [None] if documents is None else list(_in_parts("id", documents))
        try:
            named = {key for row in self._read(tests, ["keys"]) for key in row["keys"]}
            of_blocks = ["_rowid >= 0"] if documents is None else _in_parts("key", sorted(named))
            there = set()
            for values in (one for test in of_blocks for one in self._raw(test)):
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
        """Closing twice is fine; everything that was put is on the disk already."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _in(column: str, values: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(map(_quoted, values))})"


def _in_parts(column: str, values: Sequence[str]) -> list[str]:
    return [_in(column, part) for part in _parts(values)]


def _with_keys(keys: Sequence[str]) -> list[str]:
    return [f"array_has_any(keys, make_array({', '.join(map(_quoted, part))}))" for part in _parts(keys)]


def _document(row: Mapping[str, Any]) -> StoredDocument:
    windows = tuple(map(Window, row["keys"], row["starts"], row["ends"]))
    if row["checksum"] != document_checksum(row["id"], row["digest"], row["metadata"], windows):
        raise ValueError("it has changed since it was written")
    return StoredDocument(row["id"], windows, row["digest"], json.loads(row["metadata"]))

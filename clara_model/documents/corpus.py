"""Whole corpora into a store: what is new or has changed is compressed, the rest is not touched.

A document is known by its file (and line), and by the hash of its content. It is recorded when all its windows are in
the store, so that a run that is killed and started again does nothing twice.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clara_model.documents.document import Document, Unread
from clara_model.documents.passages import plain_name, read_source, sources_of
from clara_model.documents.rows import is_hub_name
from clara_model.store.protocol import DurableStore, MissingBlocks, StoredDocument
from clara_model.windows import Window, content_key

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
CHARACTERS_AT_ONCE = 64_000
"""Of the documents that are compressed between two steps of the progress, by one process."""
CHECKED_AT_ONCE = 256
"""Documents that have not changed, whose latents are looked at together."""
WINDOWS_AT_ONCE = 256
"""Windows that are compressed together; a long document has many."""
_PLACE = re.compile(r"^(.*?)(:\d+)?(#\d+)?$", re.DOTALL)
"""A document's id: its file, its line and, of several texts of one line, which."""
_DATA_SET = re.compile(r"^(hf://datasets/[^/@]+/[^/@]+).*$", re.DOTALL)
_SLASHES = ("/", "\\")
_TURNS = 5
"""Times that a batch is begun again."""
New = tuple[str, str, Document]
"""Id, digest and document of one that is not in the store as it is."""
Split = tuple[StoredDocument, dict[str, str]]
"""A document as the store keeps it, and the texts of its windows by key."""


@dataclass(frozen=True)
class Done:
    """What was done with some documents."""

    windows: int
    compressed: int
    """Of these windows, not in the store before."""
    tokens: int
    """Text tokens of the windows that were compressed."""


Compress = Callable[[Iterable[Sequence[New]]], Iterator[Done]]
"""What makes batches of documents into what was done, in any order."""


@dataclass
class CorpusReport:
    """What a run has done."""

    documents: int = 0
    """That were read."""
    unchanged: int = 0
    """Of them, as they are in the store already."""
    removed: int = 0
    """That were in the store and are gone: rows and texts of files that were read again, and all others (``sync``)."""
    windows: int = 0
    """Of new and changed documents."""
    compressed: int = 0
    """Of these windows, not in the store before."""
    tokens: int = 0
    """Text tokens of the windows that were compressed."""
    nbytes: int = 0
    """UTF-8 bytes of the documents that were read."""
    source_bytes: int = 0
    """Of the files that have been read, and a part of the one that is being read."""
    all_bytes: int | None = None
    """Of all files; None where a data set of the hub is among them, whose size is not known."""
    seconds: float = 0.0
    bad: list[tuple[str, str]] = field(default_factory=list)
    """Files, or parts of them, that could not be read, and why."""
    kept: list[tuple[int, str]] = field(default_factory=list)
    """How many documents are not among the files and stay all the same (``sync``), and why: they may not be gone."""


def compress_corpus(
    clara: Clara | Compress,
    store: DurableStore,
    names: Sequence[str],
    *,
    sync: bool = False,
    text_key: str | None = None,
    metadata: Sequence[str] = (),
    progress: Callable[[CorpusReport], None] = lambda report: None,
) -> CorpusReport:
    """Compress the documents of files and folders into a store.

    Args:
        clara: loaded with this store; or what compresses in other processes, see `documents.workers`.
        store: where they go.
        names: files, folders and data sets of the hub (``hf://datasets/..``).
        text_key: key or column that holds the text of a row (default: text, contents or docs).
        metadata: keys or columns of a row that are kept as its documents' metadata, for `Clara.search(.., where=..)`;
            ``file`` and ``line`` always are, of the document where the row has none.
        sync: delete the store's documents that are not among them, if they are known to be gone: what stands below a
            folder or in a file that cannot be read stays, and what stood below a folder that is empty now (as where a
            share is not mounted). Rows that a file no longer holds are deleted in any case.
        progress: called after each step.

    Returns:
        What was done; a file that cannot be read is listed there and does not end the run.

    Raises:
        FileNotFoundError: a name that does not exist.
        ClaraError: the store cannot be written.
    """
    start, report = time.perf_counter(), CorpusReport()
    sources, unread = sources_of(names, in_full=True)
    sizes: dict[Path | str, int] = {source: _size(source) for source in sources if isinstance(source, Path)}
    report.all_bytes = sum(sizes.values()) if len(sizes) == len(sources) else None
    known = store.digests()
    seen: set[str] = set()
    read: set[str] = set()
    batches = _batches(
        _new(_documents(sources, sizes, text_key, metadata, report, unread, read), store, known, seen, report)
    )
    with nullcontext(clara(batches)) if callable(clara) else _here(clara, store, batches) as made:
        for done in made:
            report.windows += done.windows
            report.compressed += done.compressed
            report.tokens += done.tokens
            report.seconds = time.perf_counter() - start
            progress(report)
    gone, report.kept = _gone([one for one in known if one not in seen], read, unread, sync)
    report.removed = store.forget(gone)
    report.bad = [(one.file, one.reason) for one in unread]
    report.seconds = time.perf_counter() - start
    return report


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # reading it will say so
        return 0


def _documents(
    sources: Iterable[Path | str],
    sizes: Mapping[Path | str, int],
    text_key: str | None,
    metadata: Sequence[str],
    report: CorpusReport,
    unread: list[Unread],
    read: set[str],
) -> Iterator[Document]:
    """The documents of all files that can be read, which are added to ``read``; says in the report how far it is."""
    for source in sources:
        end, empty = report.source_bytes + sizes.get(source, 0), True
        for item in read_source(source, text_key, metadata):
            empty = False
            if isinstance(item, Unread):
                unread.append(item)
                continue
            report.source_bytes = min(end, report.source_bytes + len(item.text.encode("utf-8", "replace")))
            read.add(item.file)
            yield item
        read.add(plain_name(str(source)))
        if empty:
            logger.warning("%s is empty and left out.", plain_name(str(source)))
        report.source_bytes = end


def _gone(
    absent: Iterable[str], read: Container[str], unread: Sequence[Unread], sync: bool
) -> tuple[list[str], list[tuple[int, str]]]:
    """Of the store's documents that no file held, those that are known to be gone; how many others stay, and why."""
    whole = {_DATA_SET.sub(r"\1", one.file): one.reason for one in unread if one.lines is None}
    rows = {f"{one.file}:{line}": one.reason for one in unread if one.lines is not None for line in one.lines}
    gone: list[str] = []
    kept: Counter[str] = Counter()
    for one in absent:
        row, file = (_PLACE.sub(end, one) for end in (r"\1\2", r"\1"))
        if not sync and file not in read:
            continue
        above = (file[:end] for end in range(len(file), 0, -1) if file[end : end + 1] in ("", *_SLASHES))
        reason = rows.get(row) or next((whole[place] for place in above if place in whole), None) or _unmounted(file)
        if reason is None:
            gone.append(one)
        else:
            kept[reason] += 1
    return gone, [(count, reason) for reason, count in kept.items()]


def _unmounted(file: str) -> str | None:
    """Why a file that was not found may be there all the same: a share that is not mounted is an empty folder."""
    if is_hub_name(file):
        return None
    try:
        folder = next(place for place in Path(file).parents if place.exists())
        if any(folder.iterdir()):
            return None
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}."
    return f"{folder} is empty, as where nothing is mounted; delete it too if its documents are gone."


def _new(
    documents: Iterable[Document], store: DurableStore, known: dict[str, str], seen: set[str], report: CorpusReport
) -> Iterator[New]:
    """Those that are not in the store as they are, or whose latents are damaged or missing there."""
    same: list[New] = []
    for document in documents:
        name, number = document.place, 1
        while name in seen:  # several texts of one line
            number += 1
            name = f"{document.place}#{number}"
        seen.add(name)
        report.documents += 1
        report.nbytes += len(document.text.encode("utf-8", "replace"))
        digest = digest_of(document)
        if known.get(name) == digest:
            report.unchanged += 1
            same.append((name, digest, document))
            if len(same) == CHECKED_AT_ONCE:
                yield from _broken(store, same, report)
                same = []
        else:
            yield name, digest, document
    yield from _broken(store, same, report)


def _broken(store: DurableStore, same: Sequence[New], report: CorpusReport) -> Iterator[New]:
    """Documents that have not changed, but whose latents must be made anew."""
    damages = {one.where for one in store.verify([name for name, *_ in same], mend=True)} if same else set()
    broken = [new for new in same if new[0] in damages]
    if broken:
        report.unchanged -= len(broken)
        logger.warning("%s: %d documents are made anew: their latents were damaged or missing", store.url, len(broken))
    yield from broken


def digest_of(document: Document) -> str:
    """Of what is kept: changed metadata are recorded anew, which compresses nothing."""
    more = f"\0{json.dumps(dict(document.metadata), sort_keys=True)}" if document.metadata else ""
    more += "\0" * (document.metadata.keys() & {"file", "line"} != set())  # an older version did not keep these
    return content_key(document.text + more)


def _batches(documents: Iterable[New]) -> Iterator[list[New]]:
    batch: list[New] = []
    count = 0
    for new in documents:
        batch.append(new)
        count += len(new[2].text)
        if count >= CHARACTERS_AT_ONCE:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


@contextmanager
def _here(clara: Clara, store: DurableStore, batches: Iterable[Sequence[New]]) -> Iterator[Iterator[Done]]:
    """One batch is compressed while the next is read and split."""
    with ahead(_split(clara, batch) for batch in batches) as splits:
        yield (_kept(clara, store, one) for one in splits)


@contextmanager
def ahead(items: Iterable[Item], most: int = 2) -> Iterator[Iterator[Item]]:
    """Take items that are made in a thread, in their order, for the block's time: reading beside computing.

    At most ``most`` are made before they are asked for; what making one raises is raised where it would have come.
    """
    source: Iterator[Any] = iter(items)
    end = object()
    thread = ThreadPoolExecutor(1, thread_name_prefix="reading ahead")
    waiting = deque(thread.submit(next, source, end) for _ in range(most))

    def taken() -> Iterator[Any]:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, source, end))
            yield item

    try:
        yield taken()
    finally:
        thread.shutdown(cancel_futures=True)


def compress_documents(clara: Clara, store: DurableStore, batch: Sequence[New]) -> Done:
    """The windows that the store lacks, then the documents."""
    return _kept(clara, store, _split(clara, batch))


def _split(clara: Clara, batch: Sequence[New]) -> list[Split]:
    splits = []
    for name, digest, document in batch:
        places = clara.model.tokens.windows(document.text)
        texts = [document.text[start:end] for start, end in places]
        same = texts == [document.text] and not document.metadata  # then the digest is the window's key
        keys = [digest] if same else map(content_key, texts)
        windows = tuple(Window(key, *place) for key, place in zip(keys, places, strict=True))
        row = {"file": document.file} if document.line is None else {"file": document.file, "line": document.line}
        stored = StoredDocument(name, windows, digest, {**row, **document.metadata})
        splits.append((stored, dict(zip((window.key for window in windows), texts, strict=True))))
    return splits


def _kept(clara: Clara, store: DurableStore, splits: Sequence[Split]) -> Done:
    texts = {key: text for _, own in splits for key, text in own.items()}
    tokens = compressed = 0
    for turn in range(_TURNS):
        there = store.numbers(list(texts))
        missing = [key for key in texts if key not in there]
        for start in range(0, len(missing), WINDOWS_AT_ONCE):
            part = missing[start : start + WINDOWS_AT_ONCE]
            tokens += sum(clara.call().compress({key: texts[key] for key in part}).lengths)  # split already
        compressed += len(missing)
        try:
            store.record([stored for stored, _ in splits])
            break
        except MissingBlocks:  # another run has changed the last document that had them
            if turn == _TURNS - 1:
                raise
    return Done(sum(len(stored.windows) for stored, _ in splits), compressed, tokens)

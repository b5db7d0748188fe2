"""Whole corpora into a store: what is new or has changed is compressed, the rest is not touched.

A document is known by its file (and line), and by the hash of its content. It is recorded when all its windows are in
the store, so that a run that is killed and started again does nothing twice. Leaves out reading files
(`documents.passages`) and processes (`documents.device_processes`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clara_model.documents.ahead import ahead
from clara_model.documents.document import Document, Unread
from clara_model.documents.passages import read_source, sources_of
from clara_model.store.protocol import DurableStore, StoredDocument, Window, content_key

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

CHARACTERS_AT_ONCE = 64_000
"""Of the documents that are compressed between two steps of the progress, by one process."""
WINDOWS_AT_ONCE = 256
"""Windows that are compressed together; a long document has many."""
New = tuple[str, str, Document]
"""Id, digest and document of one that is not in the store as it is."""


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
    """That were in the store and are no longer among the files."""
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
    """Files that could not be read, and why."""


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
        clara: loaded with this store; or what compresses in other processes, see `documents.device_processes`.
        store: where they go.
        names: files, folders and data sets of the hub (``hf://datasets/..``).
        text_key: key or column that holds the text of a row (default: text, contents or docs).
        metadata: keys or columns of a row that are kept as its documents' metadata, for `Clara.search(.., where=..)`;
            ``file`` and ``line`` always are.
        sync: delete the store's documents that are not among them.
        progress: called after each step.

    Returns:
        What was done; a file that cannot be read is listed there and does not end the run.

    Raises:
        FileNotFoundError: a name that does not exist.
        ClaraError: the store cannot be written.
    """
    start, report = time.perf_counter(), CorpusReport()
    sources = sources_of(names)
    paths = [source for source in sources if isinstance(source, Path)]
    report.all_bytes = sum(path.stat().st_size for path in paths) if len(paths) == len(sources) else None
    known = store.digests()
    seen: set[str] = set()
    batches = _batches(_new(_documents(sources, text_key, metadata, report), known, seen, report))
    with _making(clara, store, batches) as made:
        for done in made:
            report.windows += done.windows
            report.compressed += done.compressed
            report.tokens += done.tokens
            report.seconds = time.perf_counter() - start
            progress(report)
    if sync and not report.bad:  # a file that could not be read has not vanished
        report.removed = store.forget([one for one in known if one not in seen])
    report.seconds = time.perf_counter() - start
    return report


def _documents(
    sources: Iterable[Path | str], text_key: str | None, metadata: Sequence[str], report: CorpusReport
) -> Iterator[Document]:
    """The documents of all files that can be read; says in the report how far it is."""
    for source in sources:
        before, size = report.source_bytes, source.stat().st_size if isinstance(source, Path) else 0
        for item in read_source(source, text_key, metadata):
            if isinstance(item, Unread):
                report.bad.append((item.file, item.reason))
                continue
            report.source_bytes = min(before + size, report.source_bytes + len(item.text.encode("utf-8", "replace")))
            yield item
        report.source_bytes = before + size


def _new(documents: Iterable[Document], known: dict[str, str], seen: set[str], report: CorpusReport) -> Iterator[New]:
    """Those that are not in the store as they are."""
    for document in documents:
        place = document.file if document.line is None else f"{document.file}:{document.line}"
        name, number = place, 1
        while name in seen:  # several texts of one line
            number += 1
            name = f"{place}#{number}"
        seen.add(name)
        report.documents += 1
        report.nbytes += len(document.text.encode("utf-8", "replace"))
        digest = _digest(document)
        if known.get(name) == digest:
            report.unchanged += 1
        else:
            yield name, digest, document


def _digest(document: Document) -> str:
    """Of what is kept: changed metadata are recorded anew, which compresses nothing."""
    more = f"\0{json.dumps(dict(document.metadata), sort_keys=True)}" if document.metadata else ""
    return content_key(document.text + more)


@dataclass(frozen=True)
class _Split:
    """A document and its windows."""

    id: str
    digest: str
    document: Document
    places: list[tuple[int, int]]

    @property
    def texts(self) -> list[str]:
        return [self.document.text[start:end] for start, end in self.places]


def _batches(documents: Iterable[New]) -> Iterator[list[New]]:
    """Some thousand characters of documents together."""
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
def _making(clara: Clara | Compress, store: DurableStore, batches: Iterable[Sequence[New]]) -> Iterator[Iterator[Done]]:
    """What is made of the batches elsewhere; or here, one after the other, the next read and split meanwhile."""
    if callable(clara):
        yield clara(batches)
        return
    with ahead(_split(clara, batch) for batch in batches) as ready:
        yield (_kept(clara, store, splits) for splits in ready)


def compress_documents(clara: Clara, store: DurableStore, batch: Sequence[New]) -> Done:
    """The windows that the store lacks, then the documents."""
    return _kept(clara, store, _split(clara, batch))


def _split(clara: Clara, batch: Sequence[New]) -> list[_Split]:
    return [_Split(*new, clara.model.tokens.windows(new[2].text)) for new in batch]


def _kept(clara: Clara, store: DurableStore, splits: Sequence[_Split]) -> Done:
    texts = list(dict.fromkeys(text for split in splits for text in split.texts))
    there = store.numbers([content_key(text) for text in texts])
    missing = [text for text in texts if content_key(text) not in there]
    tokens = 0
    for start in range(0, len(missing), WINDOWS_AT_ONCE):
        part = missing[start : start + WINDOWS_AT_ONCE]
        tokens += sum(clara.engine.call().compress(part).lengths)  # split already
    store.record([_stored(split) for split in splits])
    return Done(sum(len(split.places) for split in splits), len(missing), tokens)


def _stored(split: _Split) -> StoredDocument:
    windows = tuple(
        Window(content_key(text), start, end) for text, (start, end) in zip(split.texts, split.places, strict=True)
    )
    metadata: dict[str, str | int | float | bool] = {**split.document.metadata, "file": split.document.file}
    if split.document.line is not None:
        metadata["line"] = split.document.line
    return StoredDocument(split.id, windows, split.digest, metadata)

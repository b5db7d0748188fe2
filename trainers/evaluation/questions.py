"""Questions to be measured, each with the passages that are offered for it: published files, or a user's own.

Published format: ``{"question", "docs", "golden_answers" | "answer" | .., "pos_index"?}``; a paraphrase row is a
question without text; a user's own questions have no ``docs`` but a store's passages. Long documents are split here
into the passages that the checkpoint reads, so that every system ranks and reads the same.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clara_model.documents.corpus import compress_corpus
from clara_model.errors import ClaraError
from clara_model.store.cache import durable
from clara_model.store.protocol import content_key
from trainers.data.jsonl import values_of
from trainers.data.row import DOCUMENTS, Row, parse_row
from trainers.data.rows import find_files, read_rows

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

logger = logging.getLogger(__name__)
Setting = Literal["normal", "oracle"]
SHARED = Path("shared") / "data" / "eval"
PUBLISHED = {"normal": "no_pos", "oracle": "with_pos"}
"""How the published evaluation names the files of a setting: ``NAME/eval_processed_no_pos.jsonl``."""
Split = Callable[[str], Sequence[tuple[int, int]]]
"""Start and end of the passages of a text (`Tokens.windows`)."""


@dataclass(frozen=True, eq=False)
class Pool:
    """What is offered for a question, in the order of the file or the store."""

    passages: Sequence[str]
    documents: Sequence[int]
    """The document that each passage stands in."""
    shared: bool = False
    """Whether it is a whole corpus, which all questions share."""

    def ranking(self, order: Sequence[int]) -> list[int]:
        """An order of passages as one of documents: each stands where its best passage does."""
        return list(dict.fromkeys(self.documents[passage] for passage in order))


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """One question, or one text to be told in other words."""

    number: int
    """Its place in the data set, from 0."""
    text: str
    references: tuple[str, ...]
    """Accepted answers; of a text, what it is compared with."""
    pool: Pool
    positives: tuple[int, ...] = ()
    """Gold documents, where known."""
    source: str = ""
    """``file:line``."""
    cluster: str = ""
    """Questions with the same one are not independent: they ask about the same gold documents or the same pool."""


def find_dataset(name: str, setting: Setting, folder: str | Path | None = None) -> list[Path]:
    """The files of a data set: a path, or a name in a folder, by default ``shared/data/eval`` beside or above this one.

    E.g. ``nq``: ``nq/eval_processed_no_pos.jsonl`` (normal) or ``.._with_pos.jsonl`` (oracle) as published, or
    ``nq.jsonl``, which serves both settings. Where there is nothing, a `ClaraError` says where it was looked for.
    """
    if Path(name).expanduser().exists():
        return find_files(name)
    around = (Path(".."), Path(), Path(__file__).resolve().parents[3])
    folders = [Path(folder).expanduser()] if folder else [one / SHARED for one in around]
    for place in folders:
        for path in (place / name / f"eval_processed_{PUBLISHED[setting]}.jsonl", place / f"{name}.jsonl"):
            for file in (path, path.with_name(path.name + ".gz")):
                if file.is_file():
                    return [file]
    looked = ", ".join(map(str, dict.fromkeys(folders)))
    raise ClaraError(f"there is no data set {name!r}: it is no file, and {looked} holds no {name}.jsonl; see --data")


def has_documents(files: Sequence[Path]) -> bool:
    """Whether the rows of some files bring their documents along; their first row tells."""
    _, first = next(values_of(files[0]), ("", None))
    return isinstance(first, dict) and any(isinstance(first.get(name), list) for name in DOCUMENTS)


def read_candidates(files: Sequence[Path], setting: Setting, split: Split, limit: int = 0) -> list[Question]:
    """The questions of published files, at most ``limit`` (0: all), in passages; a `ClaraError` names a bad line."""
    rows = read_rows(list(files), prefer_gold=True)
    rows = rows[:limit] if limit else rows
    return [question_of(number, row, split, setting) for number, row in enumerate(rows)]


def read_own(files: Sequence[Path], pool: Pool, limit: int = 0) -> list[Question]:
    """Questions over a corpus, ``{"question", "answer" | "answers"}`` a line; a `ClaraError` names a bad one."""
    found: list[Question] = []
    for place, values in (line for file in files for line in values_of(file)):
        if limit and len(found) == limit:
            break
        if isinstance(values, dict):
            values = {**values, "docs": [""]}
            if isinstance(values.get("answer"), list):  # all that count
                values["answers"] = values.pop("answer")
        try:
            row = parse_row(values, place, prefer_gold=True)
        except ClaraError as error:
            raise ClaraError(f"{place}: {error}") from error
        text, references = _asked(row)
        number, cluster = len(found), _key([text])
        found.append(
            Question(number=number, text=text, references=references, pool=pool, source=place, cluster=cluster)
        )
    if not found:
        raise ClaraError(f"{', '.join(map(str, files))} holds no questions")
    return found


def passages_of(documents: Sequence[str], split: Split) -> Pool:
    """The passages of some documents, in order."""
    parts = [(text[start:end], number) for number, text in enumerate(documents) for start, end in split(text)]
    return Pool([text for text, _ in parts], [number for _, number in parts])


def first_answers(questions: Sequence[Question]) -> list[Question]:
    """The same with the first accepted answer only, which is all that the published evaluation compares with."""
    return [replace(question, references=question.references[:1]) for question in questions]


def question_of(number: int, row: Row, split: Split, setting: Setting = "normal") -> Question:
    """A row as a question; arguments and errors as for `read_candidates`."""
    text, references = ("", row.answers) if row.kind == "paraphrase" else _asked(row)
    if setting == "oracle" and not row.positives and text:
        raise ClaraError(f'{row.source} has no "pos_index", which --setting oracle needs; use --setting normal')
    gold = [row.documents[place] for place in row.positives]
    return Question(
        number=number,
        text=text,
        references=references,
        pool=passages_of(row.documents, split),
        positives=row.positives,
        source=row.source,
        cluster=_key(sorted(gold or row.documents)),
    )


def _asked(row: Row) -> tuple[str, tuple[str, ...]]:
    if len(row.questions) != 1 or not row.questions[0].strip():
        what = f"{len(row.questions)} questions" if len(row.questions) > 1 else "a blank question"
        what = what if row.questions else "no question"
        raise ClaraError(f"{row.source} has {what}; evaluation wants one in each row")
    return row.questions[0], row.references or row.answers


def _key(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True)
class Compressed:
    """What compressing has taken, in this run or an earlier one of the same evaluation."""

    passages: int = 0
    tokens: int = 0
    seconds: float = 0.0
    kept: int = 0
    """Passages that were in the store before the evaluation began, where each question has its own."""

    def after(self, before: Compressed) -> Compressed:
        """Together with what an earlier run took."""
        passages, tokens = self.passages + before.passages, self.tokens + before.tokens
        return Compressed(passages, tokens, self.seconds + before.seconds, before.kept)


def kept(clara: Clara, passages: Sequence[str]) -> int:
    """How many of some passages' latents are on the disk already."""
    store = durable(clara.store)
    return 0 if store is None else len(store.numbers(list({content_key(text) for text in passages})))


def compress(clara: Clara, names: Sequence[str]) -> Compressed:
    """Bring the documents of files and folders into the store that ``clara`` was loaded with; what is there stays.

    What cannot be read is left out, each with a warning; nothing at all is a `ClaraError`.
    """
    store = durable(clara.store)
    assert store is not None
    done = compress_corpus(clara, store, names)
    for _, reason in done.bad:
        logger.warning("left out: %s", reason)
    return Compressed(done.compressed, done.tokens, done.seconds if done.compressed else 0.0)


def stored_pool(clara: Clara) -> Pool:
    """Every passage of the store that ``clara`` has, each once. Raises `ClaraError`: it holds nothing, or no texts."""
    store = durable(clara.store)
    assert store is not None
    document_of: dict[str, int] = {}
    for number, document in enumerate(store.documents()):
        for window in document.windows:
            document_of.setdefault(window.key, number)
    passages: list[str] = []
    documents: list[int] = []
    for row in store.iterate():
        if row.block.text is None:
            raise ClaraError(f"the store {store.url} keeps no texts, which are read here; compress without --no-text")
        passages.append(row.block.text)
        documents.append(document_of.setdefault(row.key, len(document_of)))
    if not passages:
        raise ClaraError(f"the store {store.url} holds nothing; name documents with --docs")
    return Pool(passages, documents, shared=True)

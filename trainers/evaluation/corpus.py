"""A user's own documents as one pool of passages: compressed into a store once, then searched for every question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clara_model.documents.corpus import compress_corpus
from clara_model.errors import ClaraError
from clara_model.store.layered import durable
from clara_model.store.protocol import content_key
from trainers.evaluation.questions import Pool

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara


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
        return Compressed(
            self.passages + before.passages, self.tokens + before.tokens, self.seconds + before.seconds, before.kept
        )


def kept(clara: Clara, passages: Sequence[str]) -> int:
    """How many of some passages' latents are on the disk already."""
    store = durable(clara.store)
    return 0 if store is None else len(store.numbers(list({content_key(text) for text in passages})))


def compress(clara: Clara, names: Sequence[str]) -> Compressed:
    """Bring the documents of files and folders into the store that ``clara`` was loaded with; what is there stays.

    Raises:
        ClaraError: a file that cannot be read, or the store cannot be written.
    """
    store = durable(clara.store)
    assert store is not None
    done = compress_corpus(clara, store, names)
    if done.bad:
        listed = "; ".join(f"{name}: {reason}" for name, reason in done.bad[:3])
        raise ClaraError(f"{len(done.bad)} files cannot be read ({listed}); remove or convert them")
    return Compressed(done.compressed, done.tokens, done.seconds if done.compressed else 0.0)


def pool(clara: Clara) -> Pool:
    """Every passage of the store that ``clara`` was loaded with, each once.

    Raises:
        ClaraError: a store that holds nothing, or no texts.
    """
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
            raise ClaraError(
                f"the store {store.url} keeps no texts, so nothing can be read as text; compress without --no-text"
            )
        passages.append(row.block.text)
        documents.append(document_of.setdefault(row.key, len(document_of)))
    if not passages:
        raise ClaraError(f"the store {store.url} holds nothing; name documents with --docs")
    return Pool(passages, documents, shared=True)

"""Hard negatives: the passages of a pool that are nearest to a question, by BM25 or by an encoder's vectors.

Vectors come from a sentence-transformers model (optional), as the paper's negatives come from a bi-encoder, or a CLaRa
checkpoint searches in its own latents. Shapes: ``N`` passages, ``B`` questions, ``D`` dimensions.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from clara_model.errors import ClaraError, needing
from clara_model.search.bm25 import BM25, largest

METHODS = ("bm25", "embedding")
CLARA_PREFIX = "clara:"
_BATCH = 32
_ROWS_AT_ONCE = 16384
_PASSAGES_AT_ONCE = 1024


class PassagePool:
    """Different passages, numbered in the order they were added; case and white space do not make a difference."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.texts: list[str] = []
        self._numbers: dict[bytes, int] = {}
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str) -> int:
        """Add a passage unless it is there; returns its number."""
        alike = " ".join(text.casefold().split()).encode("utf-8", "replace")
        number = self._numbers.setdefault(hashlib.blake2b(alike, digest_size=16).digest(), len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number


class BM25Search:
    """BM25 over words; passages that share no word with the question are not found."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._index = BM25(texts)

    def nearest(self, questions: Sequence[str], k: int) -> list[list[int]]:
        """At most ``k`` passages for each question, nearest first; equal scores stand in the order of the pool."""
        return [self._index.best(question, k) for question in questions]


class VectorSearch:
    """Cosine between an encoder's vectors ``[N, D]``; the pool's are computed once and kept as float16."""

    def __init__(self, texts: Sequence[str], encoder: Any) -> None:
        self._encoder = encoder
        rows = [encoder.documents(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        self._vectors_ND = np.concatenate([unit(row).astype(np.float16) for row in rows])

    def nearest(self, questions: Sequence[str], k: int) -> list[list[int]]:
        """The numbers of at most ``k`` passages for each question, nearest first."""
        found: list[list[int]] = []
        for start in range(0, len(questions), _BATCH):
            queries_BD = unit(self._encoder.questions(questions[start : start + _BATCH]))
            starts = range(0, len(self._vectors_ND), _ROWS_AT_ONCE)  # widened block by block, never as a whole
            blocks = (self._vectors_ND[start : start + _ROWS_AT_ONCE].astype(np.float32) for start in starts)
            scores_BN = np.concatenate([queries_BD @ block_ND.T for block_ND in blocks], axis=1)
            found += [largest(scores_N, k).tolist() for scores_N in scores_BN]
        return found


def loaded(what: str, kind: Callable[[str], Any], model: str) -> Any:
    """A model of sentence-transformers, or a `ClaraError` with the reason."""
    try:
        return kind(model)
    except (OSError, ValueError) as error:
        raise ClaraError(f"the {what} {model!r} cannot be loaded ({str(error).splitlines()[0]})") from error


class SentenceTransformersEncoder:
    """A sentence-transformers model, with its own prompts for questions and passages where it has them."""

    def __init__(self, name: str) -> None:
        with needing("a bi-encoder", "sentence-transformers", "eval"):
            from sentence_transformers import SentenceTransformer
        self._model = loaded("embedding model", SentenceTransformer, name)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of passages."""
        return np.asarray(self._model.encode_document(list(texts), show_progress_bar=False))

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of questions."""
        return np.asarray(self._model.encode_query(list(texts), show_progress_bar=False))


class LatentSearch:
    """A CLaRa checkpoint's own ranking of the pool: `Clara.search` in a store, as its users' questions are searched.

    A long passage counts by its best window. The pool is compressed once; with a store of the user's, only what that
    does not hold, and passages in it that are not of the pool are passed over.
    """

    def __init__(self, texts: Sequence[str], name: str, store: str | None = None) -> None:
        """Load the checkpoint and compress the passages; without a store of the user's into a temporary one.
        Raises `ClaraError`: it cannot rank, or the store cannot be used.
        """
        from clara_model.inference.clara import Clara

        self._folder = tempfile.TemporaryDirectory(prefix="clara-negatives-") if store is None else None
        self._clara = Clara.load(name, store=store if self._folder is None else self._folder.name, cache_bytes=0)
        if not self._clara.can_rank:
            raise ClaraError(f"{name!r} has no query reasoner, so it cannot rank; use a checkpoint of stage end_to_end")
        self._numbers: dict[str, list[int]] = {}
        for start in range(0, len(texts), _PASSAGES_AT_ONCE):
            part = texts[start : start + _PASSAGES_AT_ONCE]
            self._clara.compress(part)
            for number, text in enumerate(part, start=start):
                for first, end in self._clara.model.tokens.windows(text):
                    self._numbers.setdefault(text[first:end].encode("utf-8", "replace").decode(), []).append(number)

    def nearest(self, questions: Sequence[str], k: int) -> list[list[int]]:
        """At most ``k`` passages for each question, nearest first; nothing for a blank question."""
        return [self._nearest(question, k) if question.strip() else [] for question in questions]

    def _nearest(self, question: str, k: int) -> list[int]:
        asked = k
        while True:
            found = self._clara.search(question, asked)
            if any(one.text is None for one in found):
                raise ClaraError("the store keeps no texts, so that passages cannot be found again in it; use another")
            numbers = dict.fromkeys(number for one in found for number in self._numbers.get(str(one.text), ()))
            if len(numbers) >= k or len(found) < asked:
                return list(numbers)[:k]
            asked *= 2


Search = BM25Search | VectorSearch | LatentSearch


def make_search(
    method: str, texts: Sequence[str], embedding_model: str | None = None, store: str | None = None
) -> Search:
    """A search over some passages; an embedding model is sentence-transformers', or a checkpoint as ``clara:NAME``,
    whose latents may be kept in a store.
    Raises `ClaraError`: an unknown method, no passages, no embedding model, or a package that is not installed.
    """
    if not texts:
        raise ClaraError("there are no passages to take negatives from; name some with --corpus")
    if method == "bm25":
        return BM25Search(texts)
    if method != "embedding":
        raise ClaraError(f"negatives must be one of {', '.join(METHODS)}, got {method!r}")
    if not embedding_model:
        raise ClaraError("embedding negatives need an --embedding-model: a sentence-transformers name, or clara:NAME")
    if store is not None and not embedding_model.startswith(CLARA_PREFIX):
        raise ClaraError(f"a store keeps latents of a CLaRa checkpoint (clara:NAME), got {embedding_model!r}")
    if embedding_model.startswith(CLARA_PREFIX):
        return LatentSearch(texts, embedding_model.removeprefix(CLARA_PREFIX), store)
    return VectorSearch(texts, SentenceTransformersEncoder(embedding_model))


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float32; a row of zeros stays."""
    vectors_ND = np.asarray(vectors_ND, dtype=np.float32)
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)

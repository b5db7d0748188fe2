"""What every `Clara` is, whatever it is asked: a loaded model with its store, opened and let go of, and what it is.

Leaves out what can be asked of it (`inference.clara`).
"""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from clara_model.errors import ClaraError
from clara_model.inference import loader
from clara_model.inference.batching import release_memory
from clara_model.inference.engine import Engine
from clara_model.inference.pipeline import Limits
from clara_model.inference.published import ClaraModel
from clara_model.inference.summary import facts
from clara_model.search.find import StoreSearch
from clara_model.store.layered import durable, layered
from clara_model.store.memory import LatentCache, LatentStore
from clara_model.validation import Cold, LongDocuments, check_count


class Opened:
    """A loaded model, the store of its latents, and the search in that store, until it is closed."""

    def _start(
        self,
        loaded: loader.Loaded,
        cache: LatentCache,
        store: str | Path | LatentStore | None,
        limits: Limits,
        long_documents: LongDocuments,
        cold: Cold,
    ) -> None:
        """In place of a constructor, whose arguments are those of each way to open one."""
        kept = cache if store is None else layered(store, cache, loaded.model.fingerprint)
        lasting = durable(kept)
        self._engine: Engine | None = Engine(loaded, kept, limits, long_documents, cold)
        self._search = None if lasting is None else StoreSearch(lasting, loaded.model.config.ranking)
        self._opened = lasting if isinstance(store, (str, Path)) else None

    def close(self) -> None:
        """Let go of the model; the last holder's close frees its memory. Closing twice is fine.

        A store that was given by its path is closed too; one that was handed over stays open.

        A call that another thread is in the middle of ends as it would have; what is being compressed in the background
        is finished where a store keeps it.
        """
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.background.close()
        search, self._search = self._search, None
        if search is not None:
            search.close()
        if self._opened is not None:
            self._opened.close()
        if engine is not None:
            last = weakref.ref(engine.loaded)
            del engine
            if last() is None:
                release_memory()

    def flush(self) -> None:
        """Wait until everything that was answered from text (``cold="text"``) has its latents.

        Raises:
            BaseException: what went wrong in the background since the last flush.
        """
        self.engine.background.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def engine(self) -> Engine:
        """What does the work.

        Raises:
            ClaraError: it has been closed.
        """
        engine = self._engine
        if engine is None:
            raise ClaraError("this Clara is closed; load it again with Clara.load")
        return engine

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def model(self) -> ClaraModel:
        """The model itself; passes that are called on it directly are not guarded against other threads."""
        return self.engine.model

    @property
    def store(self) -> LatentStore:
        """Where latents are kept."""
        return self.engine.store

    @property
    def name(self) -> str:
        """The name it was loaded by, for logs and metadata."""
        return self.engine.loaded.name or "(in memory)"

    @property
    def threads(self) -> ThreadPoolExecutor:
        """For calls of asynchronous callers; all who use the model share them."""
        return self.engine.loaded.threads

    @property
    def fingerprint(self) -> str:
        """Of the compressor; latents of another one are refused."""
        return self.model.fingerprint

    @property
    def doc_max_length(self) -> int:
        """Text tokens of a document that are read at once; a longer one is read as ``long_documents`` says."""
        return self.model.config.doc_max_length

    @property
    def top_k(self) -> int:
        """Documents that an answer is read from by default."""
        return self.model.config.top_k

    @property
    def context_window(self) -> int | None:
        """Tokens that the base model reads and writes together, where it says so."""
        return getattr(self.model.base.config, "max_position_embeddings", None)

    @property
    def can_rank(self) -> bool:
        """Whether the checkpoint has a query reasoner."""
        return "query_reasoner" in self.model.config.roles

    def count_tokens(self, text: str) -> int:
        """Text tokens of a document, before any cut."""
        return self.model.tokens.count(text)

    def info(self) -> dict[str, Any]:
        """What the checkpoint is: name, roles, sizes in parameters and bytes, float type, device, licence note."""
        return {"name": self.name, **facts(self.model)}


def limits_of(batch_tokens: int | None, batch_size: int | None, store: str | Path | LatentStore | None) -> Limits:
    """The bounds of a batch; what a store keeps beyond this process must not depend on what it was encoded with."""
    for name, value in (("batch_tokens", batch_tokens), ("batch_size", batch_size)):
        if value is not None:
            check_count(value, name)
    return Limits(batch_tokens, batch_size, alone=store is not None and not isinstance(store, LatentCache))

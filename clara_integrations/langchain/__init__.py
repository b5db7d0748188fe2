"""CLaRa for LangChain: a document compressor that ranks by latents, and a retriever over a store of latents.

Importing this loads neither torch nor a model; a component loads its model when it first needs it, and shares it with
whatever else names the same. For a model that writes, `clara serve` answers LangChain's client of OpenAI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clara_model.components.checks import DEFAULT_MODEL, check_query
from clara_model.components.extras import naming_extra
from clara_model.components.items import passage_text
from clara_model.components.model_holder import ModelHolder

with naming_extra("langchain_core", "langchain"):
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

__all__ = ["ClaraCompressor", "ClaraStoreRetriever"]

SCORE = "relevance_score"
"""Key of a document's score in its metadata, as LangChain's own rerankers name it."""


class _Component(BaseModel):
    """Which checkpoint, how it is loaded, and the model once it is needed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Any = Field(default=DEFAULT_MODEL, description="A checkpoint's folder, bundled or hub name, or a `Clara`.")
    store: str | None = Field(default=None, description="A folder where latents are kept beyond the process.")
    options: dict[str, Any] = Field(default_factory=dict, description="Further ones of `Clara.load`.")
    _holder: ModelHolder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Remember what to load."""
        super().model_post_init(context)
        self._holder = ModelHolder(self.model, {**self.options, "store": self.store}, type(self).__name__)

    def close(self) -> None:
        """Let go of the model; the next use loads it again."""
        self._holder.close()


class ClaraCompressor(_Component, BaseDocumentCompressor):
    """Ranks documents for a query by their latents and keeps the best, each with its score in the metadata.

    ``ClaraCompressor(model="clara-tiny", top_n=1).compress_documents(documents, "Where was Ranvun Mepos born?")``
    """

    top_n: int | None = Field(default=None, gt=0, description="Documents to keep; by default the checkpoint's number.")
    score_threshold: float | None = Field(default=None, description="Documents with a lower score are left out.")

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Copies of the best documents, best first; equal scores in the order given."""
        if not documents:
            return []
        question, clara = check_query(query, type(self).__name__), self._holder.get()
        ranking = clara.rank(question, [one.page_content for one in documents], self.top_n or clara.top_k)
        return [
            documents[one.index].model_copy(update={"metadata": {**documents[one.index].metadata, SCORE: one.score}})
            for one in ranking
            if self.score_threshold is None or one.by == "words" or one.score >= self.score_threshold
        ]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """`compress_documents` in one of the model's own threads, without blocking the event loop."""
        return await self._holder.run_in_thread(self.compress_documents, documents, query)


class ClaraStoreRetriever(_Component, BaseRetriever):
    """Finds the passages of a store that ``clara compress`` has filled: one pass for the query, nothing else.

    ``ClaraStoreRetriever(model="clara-tiny", store="latents", k=1).invoke("Where was Ranvun Mepos born?")``
    """

    k: int | None = Field(default=None, gt=0, description="Passages to find; by default the checkpoint's number.")
    where: Mapping[str, Any] | None = Field(default=None, description="On the documents' metadata: `Clara.search`'s.")

    def _clara(self) -> Clara:
        from clara_model.store.opening import existing_store  # not before a model is needed

        if self.store is not None and not self._holder.loaded:
            existing_store(self.store)
        return self._holder.get()

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun | None = None
    ) -> list[Document]:
        owner = type(self).__name__
        found = self._clara().search(check_query(query, owner), self.k, where=self.where)
        return [
            Document(
                id=one.id,
                page_content=passage_text(one, owner),
                metadata={"source": one.document, "start_index": one.start, **one.metadata, SCORE: one.score},
            )
            for one in found
        ]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return await self._holder.run_in_thread(self._get_relevant_documents, query, load=self._clara)

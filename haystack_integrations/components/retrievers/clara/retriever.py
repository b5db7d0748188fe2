"""`ClaraRetriever`: the passages of a store that are nearest to a query, as Haystack documents."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from haystack import Document, component
from haystack.utils import ComponentDevice, Secret

from clara_model.components.checks import DEFAULT_MODEL, DEFAULT_TOP_K, check_query, check_top
from clara_model.components.items import passage_text
from haystack_integrations.common.clara.component import TOKEN, ClaraComponent
from haystack_integrations.components.retrievers.clara.filters import where_of

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara, Found


@component
class ClaraRetriever(ClaraComponent):
    """Finds passages in a store of latents that ``clara compress`` has filled: one pass for the query, nothing else.

    A document's score is the one that `ClaraRanker` would give it, so none is needed behind it. Its content is what
    the store's latents were made of: a `ClaraGenerator` with the same ``store`` compresses nothing again. Its ``meta``
    are the stored document's, with ``source_id``, ``split_id`` and ``split_idx_start`` as a `DocumentSplitter` has
    where the document has none of its own.

    ```python
    from clara_model import Clara
    from haystack_integrations.components.retrievers.clara import ClaraRetriever

    with Clara.load("clara-tiny", store="latents") as clara:  # or clara compress
        clara.compress(["Ranvun Mepos was born in Jiwas.", "Ponwis Kilos was born in Tenga."])
    retriever = ClaraRetriever(model="clara-tiny", store="latents", top_k=1)
    print(retriever.run(query="Where was Ranvun Mepos born?")["documents"][0].content)
    ```
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Clara = DEFAULT_MODEL,
        *,
        store: str | os.PathLike[str] | None = None,
        filters: dict[str, Any] | None = None,
        top_k: int = DEFAULT_TOP_K,
        subfolder: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        device: ComponentDevice | None = None,
        token: Secret | None = TOKEN,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Check and keep the arguments; `warm_up` or the first `run` loads the model.

        Those that `ClaraRanker` has too mean the same here.

        Args:
            store: the folder that is searched; needed unless ``model`` is a `Clara` that has a store.
            filters: on the stored documents' metadata, e.g. ``{"field": "meta.file", "operator": "==", "value": "a"}``.
            top_k: documents to return at most.

        Raises:
            ValueError: no store, a filter that makes no sense, ``top_k`` below 1, or a device that is not a single
                `ComponentDevice`.
        """
        self._keep(locals())
        owner = type(self).__name__
        self.top_k = check_top(top_k, "top_k", owner)
        self.filters = filters
        if filters:
            where_of(filters, owner)
        if isinstance(self.model, str) and store is None:
            raise ValueError(f"{owner} needs store=, a folder that `clara compress` has filled")

    @property
    def clara(self) -> Clara:
        """The model with the store, loaded now if it is not yet.

        Raises:
            FileNotFoundError: there is no store; nothing is made here.
        """
        from clara_model.store.opening import existing_store  # not before a model is needed

        if self.store is not None and not self._holder.loaded:
            existing_store(self.store)
        return super(ClaraRetriever, self).clara  # noqa: UP008 - Haystack builds the class anew

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Find documents for a query.

        Args:
            query: must not be blank.
            filters: instead of the component's; ``{}`` for none.
            top_k: instead of the component's.

        Returns:
            ``documents``: with their scores, best first.

        Raises:
            ValueError: a blank query, a filter that makes no sense, a ``top_k`` below 1, or a store without texts.
            FileNotFoundError: there is no store.
        """
        owner = type(self).__name__
        keep = check_top(self.top_k if top_k is None else top_k, "top_k", owner)
        chosen = self.filters if filters is None else filters
        where = where_of(chosen, owner) if chosen else None
        found = self.clara.search(check_query(query, owner), keep, where=where)
        return {"documents": [_document(one, owner) for one in found]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """`run` in one of the model's own threads, without blocking the event loop."""
        return await self._run_in_thread(self.run, query, filters, top_k)


def _document(one: Found, owner: str) -> Document:
    place = {"source_id": one.document, "split_id": one.window, "split_idx_start": one.start}
    meta = {**(place if one.document is not None else {}), **one.metadata}
    return Document(id=one.id, content=passage_text(one, owner), meta=meta, score=float(one.score))

"""`ClaraRetriever`: the passages of a store that are nearest to a question, as a LlamaIndex retriever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import Field, PrivateAttr, model_validator
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilters

from clara_integrations.llama_index.component import ClaraComponent
from clara_integrations.llama_index.filters import where_of
from clara_model.components.checks import check_query
from clara_model.components.items import passage_text

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara, Found


class ClaraRetriever(ClaraComponent, BaseRetriever):
    """Finds passages in a store of latents that ``clara compress`` has filled: one pass for the question, nothing else.

    A node's score is the one that `ClaraRerank` would give it, and its text is what the store's latents were made
    of: its metadata are hidden from vectors and prompts, so that a `ClaraSynthesizer` with the same ``store``
    compresses nothing again. Its source is the document, its id document and passage.

    ```python
    from clara_integrations.llama_index import ClaraRetriever
    from clara_model import Clara

    with Clara.load("clara-tiny", store="latents") as clara:  # or clara compress
        clara.compress(["Ranvun Mepos was born in Jiwas.", "Ponwis Kilos was born in Tenga."])
    retriever = ClaraRetriever(model="clara-tiny", store="latents", similarity_top_k=1)
    print(retriever.retrieve("Where was Ranvun Mepos born?"))
    ```
    """

    similarity_top_k: int | None = Field(
        default=None, gt=0, description="Passages to find (default: as many as the checkpoint answers from)."
    )
    filters: MetadataFilters | None = Field(
        default=None, description="On the documents' metadata; only what fits is found."
    )
    callback_manager: CallbackManager = Field(
        default_factory=CallbackManager, exclude=True, description="For the events of a retrieval."
    )

    object_map: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # of index nodes, which a store has not
    _verbose: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _has_a_store(self) -> ClaraRetriever:
        if isinstance(self.model, str) and self.store is None:
            raise ValueError("a ClaraRetriever needs store=, a folder that `clara compress` has filled")
        return self

    @property
    def clara(self) -> Clara:
        """The model with the store, loaded now if it is not yet.

        Raises:
            FileNotFoundError: there is no store; nothing is made here.
        """
        from clara_model.store.opening import existing_store  # not before a model is needed

        if self.store is not None and not self._holder.loaded:
            existing_store(self.store)
        return super().clara

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        question = check_query(query_bundle.query_str, type(self).__name__)
        where = None if self.filters is None else where_of(self.filters)
        found = self.clara.search(question, self.similarity_top_k, where=where)
        return [self._node(one) for one in found]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await self._holder.run_in_thread(self._retrieve, query_bundle, load=lambda: self.clara)

    def _node(self, one: Found) -> NodeWithScore:
        names = list(one.metadata)
        node = TextNode(
            id_=one.id,
            text=passage_text(one, type(self).__name__),
            metadata=dict(one.metadata),
            excluded_embed_metadata_keys=names,
            excluded_llm_metadata_keys=names,
            start_char_idx=one.start,
            end_char_idx=one.end,
        )
        if one.document is not None:
            node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=one.document)
        return NodeWithScore(node=node, score=float(one.score))

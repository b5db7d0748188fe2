"""`ClaraRerank`: a LlamaIndex node postprocessor that ranks nodes by their latents."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from clara_integrations.llama_index.component import ClaraComponent
from clara_model.components.checks import check_query
from clara_model.components.items import best_copies

dispatcher = get_dispatcher(__name__)

RETRIEVAL_SCORE = "retrieval_score"
"""Metadata key of the score that a node came with, as LlamaIndex's own rerankers name it."""


class ClaraRerank(ClaraComponent, BaseNodePostprocessor):
    """Ranks nodes by how well their latents fit the question's, as the checkpoint scores them, and keeps the best.

    The nodes that come back are new and their scores are Python floats; the nodes given are left as they were. Of nodes
    with one id the best-scored copy counts. The latents stay in the model's cache, so a `ClaraSynthesizer` of the same
    checkpoint does not make them again.

    ```python
    from llama_index.core.schema import NodeWithScore, TextNode

    from clara_integrations.llama_index import ClaraRerank

    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("Ranvun Mepos was born in Jiwas.", "Jiwas is old.")]
    rerank = ClaraRerank(model="clara-tiny", top_n=1)
    print(rerank.postprocess_nodes(nodes, query_str="Where was Ranvun Mepos born?"))
    ```
    """

    top_n: int | None = Field(
        default=None, gt=0, description="Nodes to keep (default: as many as the checkpoint answers from)."
    )
    score_threshold: float | None = Field(
        default=None,
        description="Nodes with a lower score are left out (default: none). Scores compare within one checkpoint and "
        "one `ranking`; where words stand in for latents (`cold='text'`) no threshold is put to them.",
    )
    keep_retrieval_score: bool = Field(
        default=False,
        description="Whether to keep the score that a node came with in its metadata (which no prompt or vector sees).",
    )
    metadata_mode: MetadataMode = Field(
        default=MetadataMode.EMBED,
        description="Which metadata is ranked with the text; `llm` where nodes hide other keys from prompts than from "
        "vectors and what is ranked should be what the synthesizer reads.",
    )

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("Query bundle must be provided.")
        if not nodes:
            return []
        question = check_query(query_bundle.query_str, type(self).__name__)
        top_n = self.top_n or self.clara.top_k
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top_n, model_name=self.checkpoint))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.checkpoint,
            EventPayload.QUERY_STR: question,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            distinct = best_copies(nodes, lambda node: str(node.node_id), lambda node: node.score)
            texts = [node.node.get_content(metadata_mode=self.metadata_mode) for node in distinct]
            ranked, least = self.clara.rank(question, texts, top_n), self.score_threshold
            kept = [one for one in ranked if least is None or one.by == "words" or one.score >= least]
            reranked = [self._scored(distinct[one.index], one.score) for one in kept]
            event.on_end(payload={EventPayload.NODES: reranked})
        dispatcher.event(ReRankEndEvent(nodes=reranked))
        return reranked

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None or not nodes:
            return self._postprocess_nodes(nodes, query_bundle)
        return await self._holder.run_in_thread(self._postprocess_nodes, nodes, query_bundle)

    def _scored(self, source: NodeWithScore, score: float) -> NodeWithScore:
        node = source.node
        if self.keep_retrieval_score:
            names = ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
            hidden = {name: list(dict.fromkeys([*getattr(node, name), RETRIEVAL_SCORE])) for name in names}
            kept = None if source.score is None else float(source.score)
            node = node.model_copy(update={**hidden, "metadata": {**node.metadata, RETRIEVAL_SCORE: kept}})
        return NodeWithScore(node=node, score=float(score))

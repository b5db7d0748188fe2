"""`ClaraEmbedding`: one vector for each text or question, so that any vector store can be the first stage."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field, model_validator

from clara_integrations.llama_index.component import ClaraComponent
from clara_model.components.checks import DEFAULT_DIMENSIONS, DEFAULT_MODEL
from clara_model.components.model_holder import ModelHolder


class ClaraEmbedding(ClaraComponent, BaseEmbedding):
    """Embeds questions with the query reasoner and texts with the compressor, one vector each.

    The cosine of the two is close to the score that a `ClaraRerank` gives the text; of a checkpoint with
    `ranking: late` it is that of the means of both sides' memory tokens, and only a hint.

    The latents behind a text's vector stay in the model's cache for `ClaraRerank` and `ClaraSynthesizer`. Questions and
    texts are embedded by different roles; an ``embeddings_cache`` tells them apart only by their words, so leave it out
    where a question may equal a text.

    ```python
    from llama_index.core import Document, VectorStoreIndex

    from clara_integrations.llama_index import ClaraEmbedding

    embedding = ClaraEmbedding(model="clara-tiny")
    index = VectorStoreIndex.from_documents([Document(text="Ranvun Mepos was born in Jiwas.")], embed_model=embedding)
    print(index.as_retriever(similarity_top_k=1).retrieve("Where was Ranvun Mepos born?"))
    ```
    """

    dimensions: int = Field(default=DEFAULT_DIMENSIONS, gt=0, frozen=True, description="Numbers in a vector.")
    model_name: str = Field(default=DEFAULT_MODEL, frozen=True, description="Another name of `model`.")
    embed_batch_size: int = Field(default=32, gt=0, le=2048, description="Texts that are embedded in one call.")

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, values: Any) -> Any:
        """The base class calls the checkpoint ``model_name``; here that is another name of ``model``."""
        if not isinstance(values, dict):
            return values
        name = values.get("model_name")
        model: Any = values.get("model", name or DEFAULT_MODEL)
        known = ModelHolder(model).name
        if name not in (None, known):
            raise ValueError(f"model and model_name are the same thing, got {known!r} and {name!r}; give one of them")
        return {**values, "model": model, "model_name": known}

    def _get_query_embedding(self, query: str) -> Embedding:
        return self.clara.embed_questions([query], self.dimensions)[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await self._holder.run_in_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await self._holder.run_in_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self.clara.embed_texts(texts, self.dimensions) if texts else []

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await self._holder.run_in_thread(self._get_text_embeddings, texts)

"""`ClaraRanker`: ranks documents for a query by their latents."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from haystack import Document, component
from haystack.utils import ComponentDevice, Secret

from clara_model.components.checks import DEFAULT_MODEL, DEFAULT_TOP_K, check_query, check_top
from clara_model.components.items import best_copies
from haystack_integrations.common.clara.component import TOKEN, ClaraComponent, check_documents, text_of

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara


@component
class ClaraRanker(ClaraComponent):
    """Ranks documents for a query in the latent space of a CLaRa model.

    Each document is compressed into a few memory-token latents, which stay in the model's cache: ranking it again, or
    answering from it with a `ClaraGenerator` of the same model, compresses it no more. Documents with the same id are
    one document, of which the copy with the best score counts. The checkpoint needs a query reasoner
    (`apple/CLaRa-7B-E2E` has one, the earlier stages have not).

    ```python
    from haystack import Document
    from haystack_integrations.components.rankers.clara import ClaraRanker

    ranker = ClaraRanker(model="clara-tiny", top_k=1)
    documents = [
        Document(content="Ponwis Kilos was born in Tenga."),
        Document(content="Ranvun Mepos was born in Jiwas."),
    ]
    result = ranker.run(query="Where was Ranvun Mepos born?", documents=documents)
    print(result["documents"][0].content)
    ```
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Clara = DEFAULT_MODEL,
        *,
        top_k: int = DEFAULT_TOP_K,
        score_threshold: float | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        subfolder: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        device: ComponentDevice | None = None,
        token: Secret | None = TOKEN,
        batch_size: int | None = None,
        store: str | os.PathLike[str] | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Check and keep the arguments; `warm_up` or the first `run` loads the model.

        Args:
            model: a folder, a bundled name, a hub name, or a loaded `Clara`, with which the component cannot be saved.
            top_k: documents to return at most.
            score_threshold: documents with a lower score are left out (default: all are kept).
            meta_fields_to_embed: metadata that is read before the content; the same in every component of a pipeline,
                or documents are compressed once for each way of reading them.
            embedding_separator: between those fields and the content.
            subfolder: of the checkpoint inside its repository, e.g. ``compression-16``.
            revision: of the hub repository.
            dtype: ``float32``, ``bfloat16`` or ``float16``; bfloat16 where the device has it in hardware.
            device: a single device (default: the best there is).
            token: for private hub repositories, read when the model is loaded.
            batch_size: documents in one pass at most (default: by their lengths).
            store: a folder where latents are kept beyond the process; what it holds is not compressed again, by no
                component that is given the same.
            model_kwargs: the other plain options of `Clara.load`, e.g. ``{"quantization": "int4", "expand": 1}``; see
                `LoadOptions` and `ClaraOptions`.

        Raises:
            ValueError: ``top_k`` or ``batch_size`` below 1, or a device that is not a single `ComponentDevice`.
        """
        self._keep(locals())
        self.top_k = check_top(top_k, "top_k", type(self).__name__)
        self.score_threshold = score_threshold
        self.meta_fields_to_embed = meta_fields_to_embed or []

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """Rank documents for a query.

        Args:
            query: must not be blank.
            documents: the candidates, which are left as they are; a content of None is the empty text.
            top_k: instead of the component's.
            score_threshold: instead of the component's; 0.0 counts.

        Returns:
            ``documents``: copies with their scores (`Ranked.score`), best first; equal scores in the order given. With
            ``cold="text"`` and latents missing, the score is the share of the query's words (`Ranked.by`), to which
            no threshold is put.

        Raises:
            ValueError: a blank query, a ``top_k`` below 1, or a checkpoint without a query reasoner.
            TypeError: not a query, or not a list of documents.
        """
        owner = type(self).__name__
        keep = check_top(self.top_k if top_k is None else top_k, "top_k", owner)
        threshold = self.score_threshold if score_threshold is None else score_threshold
        if not check_documents(documents, owner):
            return {"documents": []}
        check_query(query, owner)
        candidates = best_copies(documents, lambda one: one.id, lambda one: one.score)
        texts = [text_of(document, self.meta_fields_to_embed, self.embedding_separator) for document in candidates]
        ranked = self.clara.rank(query, texts, keep)
        kept = [one for one in ranked if threshold is None or one.by == "words" or one.score >= threshold]
        return {"documents": [replace(candidates[one.index], score=one.score) for one in kept]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """`run` in one of the model's own threads, without blocking the event loop."""
        if not documents:
            return self.run(query, documents, top_k, score_threshold)
        return await self._run_in_thread(self.run, query, documents, top_k, score_threshold)

"""`ClaraDocumentEmbedder`: one vector for each document, so that any document store can find candidates."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from haystack import Document, component
from haystack.utils import ComponentDevice, Secret
from tqdm import tqdm

from clara_model.components.checks import DEFAULT_DIMENSIONS, DEFAULT_MODEL, check_top
from clara_model.components.items import in_batches
from haystack_integrations.common.clara.component import TOKEN, ClaraComponent, check_documents, text_of

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara


@component
class ClaraDocumentEmbedder(ClaraComponent):
    """Embeds documents with the compressor of a CLaRa model, as one vector of unit length each.

    The vector is a sketch of the document's latents: its cosine with a `ClaraTextEmbedder`'s vector is close to the
    score that a `ClaraRanker` gives. The latents themselves stay in the model's cache, where the ranker and the
    generator find them. The vector of a document that is longer than the checkpoint reads at once is the mean of its
    windows' vectors, so split long ones first where each part is to be found.

    ```python
    from haystack import Document
    from haystack_integrations.components.embedders.clara import ClaraDocumentEmbedder

    embedder = ClaraDocumentEmbedder(model="clara-tiny", dimensions=256, progress_bar=False)
    result = embedder.run(documents=[Document(content="Ranvun Mepos was born in Jiwas.")])
    print(len(result["documents"][0].embedding))
    ```
    """

    _fixed = tuple(name for name in ClaraComponent._fixed if name != "batch_size")

    def __init__(
        self,
        model: str | os.PathLike[str] | Clara = DEFAULT_MODEL,
        *,
        dimensions: int = DEFAULT_DIMENSIONS,
        prefix: str = "",
        suffix: str = "",
        progress_bar: bool = True,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        subfolder: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        device: ComponentDevice | None = None,
        token: Secret | None = TOKEN,
        batch_size: int = 32,
        store: str | os.PathLike[str] | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Check and keep the arguments; `warm_up` or the first `run` loads the model.

        Those that `ClaraRanker` has too mean the same here.

        Args:
            dimensions: size of a vector. More come closer to the full score; `modeling.embedding` says how close.
            prefix: put before each text. With a prefix or suffix the ranker and the generator, which have none,
                compress the document again.
            suffix: put after each text.
            progress_bar: whether to show one.
            batch_size: documents that are embedded together.

        Raises:
            ValueError: ``dimensions`` or ``batch_size`` below 1, or a device that is not a single `ComponentDevice`.
        """
        self._keep(locals())
        owner = type(self).__name__
        self.dimensions = check_top(dimensions, "dimensions", owner)
        self.batch_size = check_top(batch_size, "batch_size", owner)
        self.prefix, self.suffix, self.progress_bar = prefix, suffix, progress_bar
        self.meta_fields_to_embed = meta_fields_to_embed or []

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Embed documents.

        Args:
            documents: are left as they are; a content of None is the empty text.

        Returns:
            ``documents``: copies with their ``embedding``, in the order given.

        Raises:
            TypeError: not a list of documents.
        """
        owner = type(self).__name__
        size = check_top(self.batch_size, "batch_size", owner)
        check_documents(documents, owner)
        embedded: list[Document] = []
        with tqdm(total=len(documents), desc="Compressing", disable=not self.progress_bar) as bar:
            for batch in in_batches(documents, size):
                vectors = self.clara.embed_texts([self._text(document) for document in batch], self.dimensions)
                embedded += [replace(one, embedding=vector) for one, vector in zip(batch, vectors, strict=True)]
                bar.update(len(batch))
        return {"documents": embedded}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:
        """`run` in one of the model's own threads, without blocking the event loop."""
        return await self._run_in_thread(self.run, documents) if documents else self.run(documents)

    def _text(self, document: Document) -> str:
        text = text_of(document, self.meta_fields_to_embed, self.embedding_separator)
        return f"{self.prefix}{text}{self.suffix}"

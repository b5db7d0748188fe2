"""`ClaraTextEmbedder`: one vector for a query, to search among those of a `ClaraDocumentEmbedder`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from haystack import component
from haystack.utils import ComponentDevice, Secret

from clara_model.components.checks import DEFAULT_DIMENSIONS, DEFAULT_MODEL, check_top
from haystack_integrations.common.clara.component import TOKEN, ClaraComponent

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara


@component
class ClaraTextEmbedder(ClaraComponent):
    """Embeds a query with the query reasoner of a CLaRa model, as one vector of unit length.

    The cosine with a document's vector is close to the score that a `ClaraRanker` gives the document
    (`modeling.embedding` says how close), so it finds candidates in any document store. Of a checkpoint with
    `ranking: late` it is the cosine of the means of both sides' memory tokens, and only a hint.

    ```python
    from haystack_integrations.components.embedders.clara import ClaraTextEmbedder

    embedder = ClaraTextEmbedder(model="clara-tiny", dimensions=256)
    print(len(embedder.run(text="Where was Ranvun Mepos born?")["embedding"]))
    ```
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Clara = DEFAULT_MODEL,
        *,
        dimensions: int = DEFAULT_DIMENSIONS,
        prefix: str = "",
        suffix: str = "",
        subfolder: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        device: ComponentDevice | None = None,
        token: Secret | None = TOKEN,
        store: str | os.PathLike[str] | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Check and keep the arguments; `warm_up` or the first `run` loads the model.

        Those that `ClaraRanker` has too mean the same here.

        Args:
            dimensions: size of the vector, the same as the document embedder's.
            prefix: put before the text.
            suffix: put after the text.

        Raises:
            ValueError: ``dimensions`` below 1, or a device that is not a single `ComponentDevice`.
        """
        self._keep(locals())
        self.dimensions = check_top(dimensions, "dimensions", type(self).__name__)
        self.prefix, self.suffix = prefix, suffix

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Embed a query.

        Args:
            text: the query; an empty one is embedded too.

        Returns:
            ``embedding``, and nothing else: so a bare ``connect`` to a retriever is not ambiguous.

        Raises:
            TypeError: not a string.
            ValueError: a checkpoint without a query reasoner.
        """
        if not isinstance(text, str):
            said = f"{type(self).__name__} expects a string, but got {type(text).__name__}"
            raise TypeError(f"{said}; use ClaraDocumentEmbedder for a list of Documents")
        return {"embedding": self.clara.embed_questions([f"{self.prefix}{text}{self.suffix}"], self.dimensions)[0]}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, list[float]]:
        """`run` in one of the model's own threads, without blocking the event loop."""
        return await self._run_in_thread(self.run, text)

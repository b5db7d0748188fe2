"""`ClaraQueryEngine`: retrieve with anything, rerank and answer from latents, in one line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Self, Unpack

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.base import BaseIndex
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode

from clara_integrations.llama_index.component import OPTIONS, errors_of
from clara_integrations.llama_index.rerank import ClaraRerank
from clara_integrations.llama_index.synthesizer import ClaraSynthesizer, refuse_for_text
from clara_model.checkpoint.options import ClaraLoadKeywords
from clara_model.components.checks import DEFAULT_MODEL, NO_ANSWER, check_known

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara


class ClaraQueryEngine(RetrieverQueryEngine):
    """A `RetrieverQueryEngine` with a `ClaraRerank` and a `ClaraSynthesizer` that share one model.

    What is ranked is what is read: both see a node's text with the metadata that LlamaIndex shows to a language model,
    so each document is compressed once.

    ```python
    from llama_index.core import Document, VectorStoreIndex

    from clara_integrations.llama_index import ClaraEmbedding, ClaraQueryEngine

    documents = [Document(text="Ranvun Mepos was born in Jiwas."), Document(text="Ponwis Kilos was born in Tenga.")]
    index = VectorStoreIndex.from_documents(documents, embed_model=ClaraEmbedding(model="clara-tiny"))
    engine = ClaraQueryEngine.from_index(index, model="clara-tiny", top_n=1)
    print(engine.query("Where was Ranvun Mepos born?"))
    ```
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        response_synthesizer: ClaraSynthesizer | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Put parts together that are there; `from_retriever` makes them.

        Args:
            retriever: the first stage.
            response_synthesizer: a `ClaraSynthesizer`; it has a default only to be asked for in one sentence.
            node_postprocessors: applied in their order; a `ClaraRerank` belongs at the end.
            callback_manager: for the engine and its parts.

        Raises:
            TypeError: another synthesizer, or none.
        """
        if not isinstance(response_synthesizer, ClaraSynthesizer):
            owner, got = type(self).__name__, type(response_synthesizer).__name__
            makes = f"{owner}.from_retriever(retriever, model) makes all its parts"
            raise TypeError(f"{owner} needs a ClaraSynthesizer, got {got}; {makes}")
        super().__init__(retriever, response_synthesizer, list(node_postprocessors), callback_manager)

    @classmethod
    def from_args(  # type: ignore[override]
        cls, retriever: BaseRetriever, model: str | os.PathLike[str] | Clara = DEFAULT_MODEL, **options: Any
    ) -> Self:
        """`from_retriever` under the name that a `RetrieverQueryEngine` has for it.

        Args:
            retriever: the first stage.
            model: as for `from_retriever`.
            **options: as for `from_retriever`; None stands for one that is not given.

        Raises:
            TypeError: what only a stock synthesizer takes, such as ``llm``, ``response_mode`` or a prompt template.
        """
        given = {name: value for name, value in options.items() if value is not None}
        refuse_for_text(given, cls.__name__)
        known = [name for name in signature(cls.from_retriever).parameters if name not in ("retriever", "loading")]
        check_known(given, (*known, *OPTIONS), "argument", f"{cls.__name__}.from_args")
        return cls.from_retriever(retriever, model, **given)

    @classmethod
    def from_retriever(
        cls,
        retriever: BaseRetriever,
        model: str | os.PathLike[str] | Clara = DEFAULT_MODEL,
        *,
        top_n: int | None = None,
        streaming: bool = False,
        max_new_tokens: int = 128,
        generate_kwargs: Mapping[str, Any] | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        callback_manager: CallbackManager | None = None,
        min_confidence: float = 0.0,
        no_answer: str = NO_ANSWER,
        **loading: Unpack[ClaraLoadKeywords],
    ) -> Self:
        """Rerank what a retriever finds and answer from the best.

        Args:
            retriever: the first stage; it should find several times ``top_n`` nodes.
            model: a checkpoint's folder, bundled or hub name, or a loaded `Clara`.
            top_n: documents to answer from (default: the checkpoint's own number).
            streaming: whether answers come piece by piece.
            max_new_tokens: most tokens to write.
            generate_kwargs: ``stop``, ``copy`` and the sampling arguments of `Clara.answer`.
            node_postprocessors: applied to the retrieved nodes before they are ranked.
            callback_manager: for the engine and its parts.
            min_confidence: as for a `ClaraSynthesizer`.
            no_answer: likewise.
            **loading: ``subfolder``, ``device``, ``dtype`` and the rest of `Clara.load`, but for a token.
        """
        with errors_of(cls.__name__):
            rerank = ClaraRerank(model=model, top_n=top_n, metadata_mode=MetadataMode.LLM, **dict[str, Any](loading))
        synthesizer = ClaraSynthesizer(
            model,
            streaming=streaming,
            max_new_tokens=max_new_tokens,
            generate_kwargs=generate_kwargs,
            callback_manager=callback_manager,
            min_confidence=min_confidence,
            no_answer=no_answer,
            **loading,
        )
        return cls(retriever, synthesizer, [*node_postprocessors, rerank], callback_manager)

    @classmethod
    def from_index(
        cls,
        index: BaseIndex[Any],
        model: str | os.PathLike[str] | Clara = DEFAULT_MODEL,
        *,
        similarity_top_k: int = 20,
        **options: Any,
    ) -> Self:
        """`from_retriever` with the index's own retriever.

        Args:
            index: any index that has a retriever.
            model: as for `from_retriever`.
            similarity_top_k: nodes that the first stage finds.
            **options: as for `from_retriever`.
        """
        return cls.from_retriever(index.as_retriever(similarity_top_k=similarity_top_k), model, **options)

"""CLaRa for LlamaIndex: retrieve, rerank, answer and embed from latents, and the base model as an ordinary LLM.

Importing this loads neither torch nor a model; a component loads its model when it first needs it.
"""

from clara_model.components.extras import naming_extra

with naming_extra("llama_index", "llama-index"):
    from clara_integrations.llama_index.embedding import ClaraEmbedding
    from clara_integrations.llama_index.llm import ClaraLLM
    from clara_integrations.llama_index.query_engine import ClaraQueryEngine
    from clara_integrations.llama_index.reading import ClaraAnswerEvent
    from clara_integrations.llama_index.rerank import ClaraRerank
    from clara_integrations.llama_index.retriever import ClaraRetriever
    from clara_integrations.llama_index.synthesizer import ClaraSynthesizer

__all__ = [
    "ClaraAnswerEvent",
    "ClaraEmbedding",
    "ClaraLLM",
    "ClaraQueryEngine",
    "ClaraRerank",
    "ClaraRetriever",
    "ClaraSynthesizer",
]

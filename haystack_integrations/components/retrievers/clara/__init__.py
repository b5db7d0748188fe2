"""Find documents in a store of latents."""

from haystack_integrations.components.retrievers.clara.retriever import ClaraRetriever

__all__ = ["ClaraRetriever"]

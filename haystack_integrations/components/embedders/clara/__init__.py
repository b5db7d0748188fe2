"""One vector for a document or a query, from latents."""

from haystack_integrations.components.embedders.clara.document_embedder import ClaraDocumentEmbedder
from haystack_integrations.components.embedders.clara.text_embedder import ClaraTextEmbedder

__all__ = ["ClaraDocumentEmbedder", "ClaraTextEmbedder"]

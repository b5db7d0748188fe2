"""`ClaraDocumentEmbedder` under the path by which pipelines of before ``haystack_integrations`` name it."""

from haystack import component

from haystack_integrations.components.embedders.clara.document_embedder import ClaraDocumentEmbedder

__all__ = ["ClaraDocumentEmbedder"]

component.registry[f"{__name__}.ClaraDocumentEmbedder"] = ClaraDocumentEmbedder

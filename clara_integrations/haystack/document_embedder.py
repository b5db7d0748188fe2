"""`ClaraDocumentEmbedder` under the path that pipelines saved before ``haystack_integrations`` name."""

from haystack import component

from haystack_integrations.components.embedders.clara.document_embedder import ClaraDocumentEmbedder

__all__ = ["ClaraDocumentEmbedder"]

component.registry[f"{__name__}.ClaraDocumentEmbedder"] = ClaraDocumentEmbedder

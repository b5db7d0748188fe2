"""`ClaraTextEmbedder` under the path that pipelines saved before ``haystack_integrations`` name."""

from haystack import component

from haystack_integrations.components.embedders.clara.text_embedder import ClaraTextEmbedder

__all__ = ["ClaraTextEmbedder"]

component.registry[f"{__name__}.ClaraTextEmbedder"] = ClaraTextEmbedder

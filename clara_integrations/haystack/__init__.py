"""Haystack components: find, rank and answer from documents that are compressed once, in place of stock parts.

They live in ``haystack_integrations.components``, whose modules Haystack trusts when it loads a saved pipeline; their
paths there are part of saved pipelines and stay as they are.
"""

from clara_model.components.extras import naming_extra

with naming_extra("haystack", "haystack"):
    from haystack_integrations.components.embedders.clara import ClaraDocumentEmbedder, ClaraTextEmbedder
    from haystack_integrations.components.generators.clara import ClaraGenerator
    from haystack_integrations.components.rankers.clara import ClaraRanker
    from haystack_integrations.components.retrievers.clara import ClaraRetriever

__all__ = ["ClaraDocumentEmbedder", "ClaraGenerator", "ClaraRanker", "ClaraRetriever", "ClaraTextEmbedder"]

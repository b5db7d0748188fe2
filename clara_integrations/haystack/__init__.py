"""Haystack components: rank and answer from documents that are compressed once, in place of a ranker and a generator.

Their module paths are part of saved pipelines and stay as they are. To load a saved pipeline, allow this package:
``Pipeline.loads(text, allowed_modules=["clara_integrations"])``.
"""

from clara_integrations.shared import naming_extra

with naming_extra("haystack", "haystack"):
    from clara_integrations.haystack.document_embedder import ClaraDocumentEmbedder
    from clara_integrations.haystack.generator import ClaraGenerator
    from clara_integrations.haystack.ranker import ClaraRanker
    from clara_integrations.haystack.text_embedder import ClaraTextEmbedder

__all__ = ["ClaraDocumentEmbedder", "ClaraGenerator", "ClaraRanker", "ClaraTextEmbedder"]

"""`ClaraRanker` under the path that pipelines saved before ``haystack_integrations`` name."""

from haystack import component

from haystack_integrations.components.rankers.clara.ranker import ClaraRanker

__all__ = ["ClaraRanker"]

component.registry[f"{__name__}.ClaraRanker"] = ClaraRanker

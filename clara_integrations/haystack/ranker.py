"""`ClaraRanker` under the path by which pipelines of before ``haystack_integrations`` name it."""

from haystack import component

from haystack_integrations.components.rankers.clara.ranker import ClaraRanker

__all__ = ["ClaraRanker"]

component.registry[f"{__name__}.ClaraRanker"] = ClaraRanker

"""Rank documents by their latents."""

from haystack_integrations.components.rankers.clara.ranker import ClaraRanker

__all__ = ["ClaraRanker"]

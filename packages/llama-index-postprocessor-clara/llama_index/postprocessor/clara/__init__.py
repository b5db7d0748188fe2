"""ClaraRerank where LlamaIndex looks for postprocessors; everything is in ``clara_integrations.llama_index``."""

from clara_integrations.llama_index import ClaraRerank

__all__ = ["ClaraRerank"]

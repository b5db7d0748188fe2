"""`ClaraGenerator` under the path by which pipelines of before ``haystack_integrations`` name it."""

from haystack import component

from haystack_integrations.components.generators.clara.generator import ClaraGenerator

__all__ = ["ClaraGenerator"]

component.registry[f"{__name__}.ClaraGenerator"] = ClaraGenerator

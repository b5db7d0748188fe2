"""`ClaraGenerator` under the path that pipelines saved before ``haystack_integrations`` name."""

from haystack import component

from haystack_integrations.components.generators.clara.generator import ClaraGenerator

__all__ = ["ClaraGenerator"]

component.registry[f"{__name__}.ClaraGenerator"] = ClaraGenerator

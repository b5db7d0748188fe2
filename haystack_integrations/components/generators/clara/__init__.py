"""Answer from documents' latents."""

from haystack_integrations.components.generators.clara.generator import ClaraGenerator

__all__ = ["ClaraGenerator"]

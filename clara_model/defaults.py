"""Defaults that more than one room names. Imports nothing."""

DEFAULT_MODEL = "clara-tiny"
"""The bundled checkpoint."""
DIMENSIONS = 1024
"""Numbers in the short vector that stands for a block of latents in a first-stage index."""

"""Defaults that more than one room names. Imports nothing."""

DEFAULT_MODEL = "clara-tiny"
"""The bundled checkpoint."""
DIMENSIONS = 1024
"""Numbers in the short vector that stands for a block of latents in a first-stage index."""
NO_ANSWER = "The documents do not say."
"""In place of an answer that the model finds too unlikely."""
CACHE_BYTES = 256 * 1024 * 1024
"""Of latents in memory: 2,000 documents of a 7B model at rate 16 in bfloat16."""

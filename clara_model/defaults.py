"""Defaults that more than one room names."""

import os
from pathlib import Path

DEFAULT_MODEL = "clara-tiny"
"""The bundled checkpoint."""
DIMENSIONS = 1024
"""Numbers in the short vector that stands for a block of latents in a first-stage index."""
NO_ANSWER = "The documents do not say."
"""In place of an answer that the model finds too unlikely."""
CACHE_BYTES = 256 * 1024 * 1024
"""Of latents in memory: 2,000 documents of a 7B model at rate 16 in bfloat16."""


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again: ``$XDG_CACHE_HOME/clara`` or ``~/.cache/clara``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clara"

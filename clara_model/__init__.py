"""The model: compresses documents into memory-token latents, ranks them, and answers from them.

Names are imported when first used, so ``import clara_model`` loads neither torch nor transformers.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clara_model.checkpoint.config import ClaraConfig
    from clara_model.checkpoint.prompts import Prompt, PromptSet
    from clara_model.errors import ClaraError, EngineError
    from clara_model.inference.clara import Clara
    from clara_model.inference.published import ClaraModel
    from clara_model.latents import Latents

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# It warns of a kernel that is not used here (`checkpoint.devices`).

__version__ = "0.2.0"
__all__ = ["Clara", "ClaraConfig", "ClaraError", "ClaraModel", "EngineError", "Latents", "Prompt", "PromptSet"]

_HOMES = {
    "Clara": "inference.clara",
    "ClaraConfig": "checkpoint.config",
    "ClaraError": "errors",
    "ClaraModel": "inference.published",
    "EngineError": "errors",
    "Latents": "latents",
    "Prompt": "checkpoint.prompts",
    "PromptSet": "checkpoint.prompts",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clara_model' has no attribute {name!r}")
    return getattr(import_module(f"clara_model.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted([*globals(), *__all__])

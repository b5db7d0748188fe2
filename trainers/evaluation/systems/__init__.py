"""Published systems beside the checkpoint: loaders of our own for the formats that are on the hub, for inference.

| name | reads | weights, and their licence as their pages state it |
|---|---|---|
| ``autocompressor`` | 50 summary vectors a passage | Apache-2.0, beside the base's (Llama 2, OPT) |
| ``cocom`` | a vector for every 4, 16 or 128 tokens | none stated; their code is CC BY-NC-SA 4.0 |
| ``llmlingua`` | words that are kept (`evaluation.answerers`) | MIT |
| ``pcc`` | a vector for every 4 to 256 tokens | not stated; Llama 3's for the decoder |
| ``xrag`` | one vector a passage | none stated; the embedder's CC BY-NC 4.0 |

PISCO is loaded as a checkpoint. Systems without a published format: PCC's Large form (an adapter whose decoder's rows
lie in a file of its repository) and ``naver/pisco`` of its newer code (no weights of it are on the hub).
No code of theirs is run, and pickled weights are read as tensors alone. Sizes and prompts come from their papers and
code; where those are silent, the loader says what it does.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from trainers.evaluation.answerers import Budget
    from trainers.evaluation.systems.soft_prompts import SoftPromptReader

SYSTEMS = {
    "autocompressor": ("AutoCompressor", "princeton-nlp/AutoCompressor-Llama-2-7b-6k"),
    "cocom": ("Cocom", "naver/cocom-v1-16-mistral-7b"),
    "pcc": ("Pcc", "BroAlanTaps/Stage2-PCC-Lite-16x"),
    "xrag": ("XRag", "Hannibal046/xrag-7b"),
}
"""Of each name its class, in the module of that name, and the weights that it takes where none are named."""


def find(name: str, system: str) -> Path:
    """The folder of a system's weights, fetched from the hub if need be; a `ClaraError` where neither is possible."""
    from clara_model.checkpoint import base_files

    try:
        return base_files.find(name)
    except ClaraError as error:
        why = type(error.__cause__).__name__
        raise ClaraError(
            f"the weights of {system} are not here: {name!r} is no folder, and the hub gave {why}; check the name and "
            "the network, or name a folder"
        ) from error


def published_reader(kind: str, model: str, clara: Clara, budget: Budget) -> SoftPromptReader:
    """The reader of a system in `SYSTEMS`, its weights loaded: from ``model``, a folder or hub name, or as published.

    It goes on the device of ``clara``, whose tokens count the text that is read; a `ClaraError` says what is missing.
    """
    name, published = SYSTEMS[kind]
    made: SoftPromptReader = getattr(import_module(f"{__name__}.{kind}"), name)(model or published, clara, budget)
    return made

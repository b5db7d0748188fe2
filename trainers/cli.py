"""``clara-train``: train one stage from the command line or a YAML file."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from clara_model.errors import ClaraError
from trainers.arguments import ALIASES, STAGE_DEFAULTS, TrainConfig, read_yaml

GROUPS = {
    "what": "what is trained",
    "sizes": "sizes",
    "data": "data",
    "loss": "losses",
    "optimisation": "optimisation",
    "machine": "machine",
    "checkpoints": "checkpoints on the way",
    "watching": "watching it",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``clara-train``; returns the exit code: 0 done, 1 failed, 2 wrong settings."""
    parser = build_parser()
    given = vars(parser.parse_args(arguments))
    given.pop("local_rank", None)
    first = os.environ.get("RANK", "0") == "0"
    try:
        values = (read_yaml(given.pop("config")) if "config" in given else {}) | given
        config = TrainConfig.for_stage(values.pop("stage", "pretrain"), **values)
    except ClaraError as error:
        parser.exit(2, f"clara-train: {error}\n" if first else "")
    _quiet()
    from trainers.run import train

    try:
        folder = train(config)
    except ClaraError as error:
        sys.stderr.write(f"clara-train: {error}\n")
        return 1
    if first:
        sys.stdout.write(f"{folder}\n")
    return 0


def _quiet() -> None:
    """Log lines of this project; of the libraries below only what a user can act on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed warns where it has to find that out itself


def build_parser() -> argparse.ArgumentParser:
    """The command line: one flag for each setting, in groups; only what is given comes back."""
    parser = argparse.ArgumentParser(
        prog="clara-train",
        usage="clara-train --stage STAGE --dataset FILE [FILE ..] --save_path FOLDER [settings]",
        description="Train a stage of CLaRa. Every setting may stand in a YAML file (--config); the command line wins.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings, names as below without dashes")
    groups = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    for setting in fields(TrainConfig):
        if "group" in setting.metadata:
            groups[setting.metadata["group"]].add_argument(*_names(setting.name), **_options(setting))
    return parser


def _names(name: str) -> list[str]:
    return [f"--{name}", *[f"--{other}" for other, own in ALIASES.items() if own == name]]


def _options(setting: Field[Any]) -> dict[str, Any]:
    kind = str(setting.type)
    options: dict[str, Any] = {"dest": setting.name, "help": f"{setting.metadata['help']} ({_default(setting)})"}
    if kind == "bool":
        return options | {"type": _boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    if kind.startswith("tuple"):
        options |= {"nargs": setting.metadata.get("nargs", "+"), "metavar": "VALUE"}
    kinds: dict[str, Any] = {"int": int, "float": float, "tuple[float, ...]": float}
    return options | {"type": kinds.get(kind, str)} | ({} if "metavar" in options else {"metavar": kind.upper()})


def _default(setting: Field[Any]) -> str:
    if isinstance(setting.default, tuple):
        return " ".join(map(str, setting.default)) or "none"
    if setting.default is not MISSING:
        return "none" if setting.default == "" else str(setting.default)
    values = [values[setting.name] for values in STAGE_DEFAULTS.values()]
    return str(values[0]) if len(set(values)) == 1 else " / ".join(map(str, values)) + " by stage"


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "yes", "1", "on"):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")


if __name__ == "__main__":
    sys.exit(main())

"""``clara-train``: train one stage from the command line or a YAML file."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from rich.text import Text

from clara_model.console import command
from clara_model.errors import ClaraError
from trainers.training.train_config import MEANINGLESS, PASSED, SETTINGS, TrainConfig, read_yaml

if TYPE_CHECKING:
    from transformers import HfArgumentParser

FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``clara-train``; returns the exit code: 0 done, 1 failed, 2 wrong settings."""
    return command.run("clara-train", lambda: _settings(arguments), _train, notes=False)


def _settings(arguments: Sequence[str] | None) -> argparse.Namespace:
    given = vars(build_parser().parse_args(arguments))
    given.pop("local_rank", None)
    try:
        values = (read_yaml(given.pop("config")) if "config" in given else {}) | given
        return argparse.Namespace(config=TrainConfig.for_stage(values.pop("stage", "pretrain"), **values))
    except ClaraError:
        if not _is_first():  # one process says it
            raise SystemExit(command.USER_ERROR) from None
        raise


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _train(args: argparse.Namespace) -> int:
    _quiet()
    from trainers import processes
    from trainers.training.run import train

    try:
        folder = train(args.config)
        processes.stop()
    except ClaraError as error:
        command.show_error("clara-train", str(error))
        return FAILED
    except Exception:
        logging.getLogger(__name__).exception("the run has failed")
        return FAILED
    if _is_first():
        command.output().print(Text(str(folder)))
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


def build_parser() -> HfArgumentParser:
    """The command line: one flag for each setting, in groups; only what is given comes back.

    The published settings are added here, since several of them take lists with commas, a fixed number of values or
    a default that the stage decides; those of `transformers.TrainingArguments` by its own parser.
    """
    from transformers import HfArgumentParser

    own = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    own.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    for name in MEANINGLESS:
        own.add_argument(f"--{name}", nargs="?", const=True, help=argparse.SUPPRESS)
    own.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings, names as below, no dashes")
    groups: dict[str, Any] = {}
    for setting in SETTINGS.values():
        title, names = setting.metadata["group"], [setting.name, *setting.metadata["also"]]
        groups[title] = groups.get(title) or own.add_argument_group(title)
        groups[title].add_argument(*[f"--{name}" for name in names], **_options(setting))
    kind = type("TrainParser", (command.Parser, HfArgumentParser), {})  # an error in one line
    return kind(
        cast("Any", _framework_settings()),
        parents=[own],
        prog="clara-train",
        usage="clara-train --stage STAGE --dataset FILE [FILE ..] --save_path FOLDER [settings]",
        description="Train a stage of CLaRa. Every setting may stand in a YAML file (--config); the command line wins.",
        formatter_class=argparse.HelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )


def _framework_settings() -> type[Any]:
    """The settings of `PASSED` as `transformers.TrainingArguments` has them."""
    from transformers import TrainingArguments

    hints = get_type_hints(TrainingArguments)
    own = {setting.name: setting for setting in fields(TrainingArguments)}
    passed = [
        (name, hints[name], field(default=argparse.SUPPRESS, metadata=own[name].metadata))
        for name in PASSED
        if name in own  # an older transformers may lack one
    ]
    made = make_dataclass("FrameworkSettings", passed)
    made._argument_group_name = "further settings of transformers.TrainingArguments"  # type: ignore[attr-defined]
    return made


def _options(setting: Field[Any]) -> dict[str, Any]:
    kind = str(setting.type)
    options: dict[str, Any] = {
        "dest": setting.name,
        "help": f"{setting.metadata['help']} (default: {_default(setting)})",
    }
    if kind == "bool":
        return options | {"type": _boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    if kind.startswith("tuple"):
        options |= {"nargs": setting.metadata.get("nargs", "+"), "metavar": "VALUE"}  # words, maybe with commas
    kinds: dict[str, Any] = {"int": int, "float": float}
    return options | {"type": kinds.get(kind, str)} | ({} if "metavar" in options else {"metavar": kind.upper()})


def _default(setting: Field[Any]) -> str:
    if isinstance(setting.default, tuple):
        return " ".join(map(str, setting.default)) or "none"
    if setting.default is not MISSING:
        return "none" if setting.default == "" else str(setting.default)
    values = setting.metadata["by_stage"]
    return str(values[0]) if len(set(values)) == 1 else " / ".join(map(str, values)) + " by stage"


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "yes", "1", "on"):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")


if __name__ == "__main__":
    sys.exit(main())

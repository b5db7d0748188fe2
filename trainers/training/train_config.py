"""`TrainConfig`: the settings of one run, from the command line's or a YAML file's names, filled in and checked."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import yaml

from clara_model.errors import ClaraError
from trainers.published import ALIASES, MEANINGLESS, NOT_BUILT, PUBLISHED_STAGES, STAGE_DEFAULTS, STAGES
from trainers.training.settings import PASSED, Settings
from trainers.training.settings_rules import check

if TYPE_CHECKING:
    from clara_model.modeling.objectives import Stage

BOOKKEEPING = ("given", "trainer", "ignored")
"""Fields that are no settings of their own."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """A training run. `for_stage` fills in what the stage decides; every value is checked."""

    @classmethod
    def for_stage(cls, stage: str, **values: Any) -> Self:
        """A run of one stage; what is not given has the stage's default.

        Raises:
            ClaraError: an unknown name, a value out of range, or settings that contradict each other.
        """
        values = _one_name_each(values)
        stage, values = _published(stage, values)
        if stage not in STAGES:
            known = ", ".join([*STAGES, *PUBLISHED_STAGES])
            reason = f": {NOT_BUILT[stage]} is not built" if stage in NOT_BUILT else ""
            raise ClaraError(f"stage must be one of {known}, got {stage!r}{reason}")
        ignored = tuple(name for name in values if name in MEANINGLESS)
        trainer = {name: _passed(name, value) for name, value in values.items() if name in PASSED}
        values = {name: value for name, value in values.items() if name not in (*ignored, *trainer)}
        unknown = sorted(set(values) - setting_names())
        if unknown:
            raise ClaraError(f"unknown setting {unknown[0]!r}; clara-train --help lists them all")
        values = {name: _coerced(name, value) for name, value in values.items()}
        given = frozenset(values) | frozenset(trainer)
        filled = {**STAGE_DEFAULTS[stage], **values, "stage": stage}
        return cls(**filled, given=given, trainer=trainer, ignored=ignored)

    def __post_init__(self) -> None:
        """Check values and their combinations."""
        check(self)

    @property
    def objective_stage(self) -> Stage:
        """The stage's name in `modeling.objectives`."""
        if self.read_text and self.stage == "pretrain":
            return "read_text"
        return "pretrain_retrieval" if self.pretrain_retrieval else cast("Stage", self.stage)

    @property
    def checkpoints_path(self) -> Path:
        """Folder of the checkpoints on the way."""
        return Path(self.ckpt_path or self.save_path)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a YAML file holds them."""
        values = {name: value for name, value in asdict(self).items() if name not in BOOKKEEPING}
        values |= self.trainer
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def setting_names() -> set[str]:
    """The names of all settings but those of `PASSED`."""
    return {setting.name for setting in fields(Settings)} - set(BOOKKEEPING)


def _one_name_each(values: dict[str, Any]) -> dict[str, Any]:
    """The values by their own names.

    Raises:
        ClaraError: a setting is given twice, under two names, with two values.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        own = ALIASES.get(name, name)
        if own in found and found[own] != value:
            raise ClaraError(f"{own} is given twice, as {found[own]!r} and as {value!r} ({name}); leave one out")
        found[own] = value
    return found


def _published(stage: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The published stage names in this project's words."""
    if stage == "stage2_pretrain_retrieval":
        return "end_to_end", {"pretrain_retrieval": True, **values}
    return PUBLISHED_STAGES.get(stage, stage), values


def _passed(name: str, value: Any) -> Any:
    """A setting of `transformers.TrainingArguments`; loggers may be separated by commas."""
    return value.split(",") if name == "report_to" and isinstance(value, str) else value


def _coerced(name: str, value: Any) -> Any:
    """Commas and single values for the fields that are lists, as the published flags have them; paths as strings."""
    kind = next(str(setting.type) for setting in fields(Settings) if setting.name == name)
    if kind.startswith("tuple"):
        return _listed(name, kind, value)
    if kind == "float" and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):  # YAML reads 1e-4 as a string
            return float(value)
    value = str(value) if isinstance(value, Path) else value
    if type(value).__name__ != kind:
        raise ClaraError(f"{name} must be of type {kind}, got {value!r}")
    return value


def _listed(name: str, kind: str, value: Any) -> tuple[Any, ...]:
    given: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    parts = [piece for part in given for piece in (part.split(",") if isinstance(part, str) else [part]) if piece != ""]
    if kind != "tuple[float, ...]":
        return tuple(str(part) for part in parts)
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError) as error:
        raise ClaraError(f"{name} must be numbers, separated by commas or blanks, got {value!r}") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Settings from a YAML file; names as on the command line, without dashes.

    Raises:
        ClaraError: the file is missing or no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ClaraError(f"configuration file {path} does not exist")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClaraError(f"{path} is no valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise ClaraError(f"{path} must hold a mapping of settings, got {type(values).__name__}")
    return values

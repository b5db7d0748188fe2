"""The model card of a trained checkpoint, ``README.md``, from the run itself: data, settings, figures, licence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clara_model.checkpoint.config import ClaraConfig
from trainers.data.rows import Row, fingerprint_of_rows, left_out_of
from trainers.training.callbacks import SHOWN
from trainers.training.run_record import versions
from trainers.training.train_config import TrainConfig

NAME = "README.md"
HIDDEN = ("use_wandb", "load_checkpoint", "save_path", "ckpt_path")
"""Settings that a card does not repeat: secrets and places on the machine."""


def write(
    config: TrainConfig,
    model: ClaraConfig,
    parts: Sequence[Sequence[Row]],
    history: Sequence[dict[str, Any]],
    folder: Path,
) -> None:
    """Write the card beside the checkpoint, unless somebody's own card is there.

    Args:
        config: of the run.
        model: of the trained checkpoint.
        parts: the training sets.
        history: the log lines.
        folder: of the checkpoint.
    """
    path = folder / NAME
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    path.write_text(_card(config, model, parts, history), encoding="utf-8")


MARK = "Written by `clara-train` from the run itself."


def _card(
    config: TrainConfig, model: ClaraConfig, parts: Sequence[Sequence[Row]], history: Sequence[dict[str, Any]]
) -> str:
    sections = [
        _header(model),
        f"# A CLaRa checkpoint on {_name(model.base_model)}\n\n{MARK}\n\n{_what(config, model)}",
        "## Data\n\n" + _table(("set", "rows", "left out", "fingerprint"), _data(config, parts)),
        "## Figures\n\n" + _figures(history),
        "## Settings\n\n" + _table(("setting", "value"), _settings(config)),
        "## Versions\n\n" + _table(("package", "version"), list(versions().items())),
    ]
    return "\n".join(section.rstrip() + "\n" for section in sections if section)


def _header(model: ClaraConfig) -> str:
    lines = ["---", "library_name: clara-integrations"]
    if model.licence:
        lines.append(f"license: {model.licence.lower()}")
    if not Path(model.base_model).is_absolute() and model.base_model.count("/") == 1:
        lines.append(f"base_model: {model.base_model}")
    return "\n".join([*lines, "---"])


def _what(config: TrainConfig, model: ClaraConfig) -> str:
    start = f" from `{_name(config.pretrain_checkpoint)}`" if config.pretrain_checkpoint else ""
    licence = model.licence or "not stated; the base model's and the data's terms apply"
    return (
        f"Stage `{config.stage}`{start}. {model.memory_tokens} memory tokens for {model.doc_max_length} document "
        f"tokens (rate {model.compression_rate}), LoRA rank {model.lora_rank} on {', '.join(model.lora_targets)}; "
        f"roles: {', '.join(role.replace('_', ' ') for role in model.roles)}. It reads {model.top_k} documents.\n\n"
        f"Licence of the weights: {licence}."
    )


def _data(config: TrainConfig, parts: Sequence[Sequence[Row]]) -> list[tuple[str, ...]]:
    return [
        (_name(name), f"{len(part):,}", f"{len(left_out_of(part)):,}", fingerprint_of_rows(part))
        for name, part in zip(config.dataset, parts, strict=True)
    ]


def _figures(history: Sequence[dict[str, Any]]) -> str:
    """The last training line, and every evaluation."""
    found = [line for line in history if "loss" in line][-1:] + [
        line for line in history if any(name.startswith("eval_") for name in line)
    ]
    kept = [name for name in SHOWN if name != "tokens_per_second"]
    rows = [
        (str(line["step"]), name, f"{value:.4g}")
        for line in found
        for name, value in line.items()
        if name in kept or name.startswith("eval_")
    ]
    return _table(("step", "figure", "value"), rows) if rows else "None were logged."


def _settings(config: TrainConfig) -> list[tuple[str, ...]]:
    values = config.to_dict()
    given = {name: values[name] for name in sorted(config.given) if name in values and name not in HIDDEN}
    return [(name, _shown(value)) for name, value in given.items()]


def _shown(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(_name(one) if isinstance(one, str) else str(one) for one in values)


def _name(text: str) -> str:
    """A name without the place it has on this machine."""
    return Path(text).name if Path(text).expanduser().exists() or Path(text).is_absolute() else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)

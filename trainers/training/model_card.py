"""The model card of a trained checkpoint, ``README.md``, from the run itself: data, settings, figures, licence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clara_model.checkpoint.config import ClaraConfig
from trainers.data.row import Row
from trainers.data.rows import fingerprint_of_rows, left_out_of
from trainers.evaluation.records import markdown_table
from trainers.training.callbacks import SHOWN
from trainers.training.run_record import versions
from trainers.training.train_config import TrainConfig

NAME = "README.md"
HIDDEN = ("use_wandb", "load_checkpoint", "save_path", "ckpt_path")
"""Settings that a card does not repeat: secrets and places on the machine."""

MARK = "Written by `clara-train` from the run itself."
Parts = Sequence[Sequence[Row]]
"""The training sets."""
History = Sequence[dict[str, Any]]
"""The log lines."""


def write(config: TrainConfig, model: ClaraConfig, parts: Parts, history: History, folder: Path) -> None:
    """Write the card of a trained checkpoint into its folder, unless somebody's own card is there."""
    path = folder / NAME
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    data = [
        (_name(name), f"{len(part):,}", f"{len(left_out_of(part)):,}", fingerprint_of_rows(part))
        for name, part in zip(config.dataset, parts, strict=True)
    ]
    sections = [
        _header(model),
        f"# A CLaRa checkpoint on {_name(model.base_model)}\n\n{MARK}\n\n{_what(config, model)}",
        "## Data\n\n" + _table(("set", "rows", "left out", "fingerprint"), data),
        "## Figures\n\n" + _figures(history),
        "## Settings\n\n" + _table(("setting", "value"), _settings(config)),
        "## Versions\n\n" + _table(("package", "version"), list(versions().items())),
    ]
    path.write_text("\n".join(section.rstrip() + "\n" for section in sections), encoding="utf-8")


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


def _figures(history: History) -> str:
    found = [line for line in history if "loss" in line][-1:]
    found += [line for line in history if any(name.startswith("eval_") for name in line)]
    rows = [
        (str(line["step"]), name, f"{value:.4g}")
        for line in found
        for name, value in line.items()
        if name.startswith("eval_") or (name in SHOWN and name != "tokens_per_second")
    ]
    return _table(("step", "figure", "value"), rows) if rows else "None were logged."


def _settings(config: TrainConfig) -> list[tuple[str, ...]]:
    def shown(value: Any) -> str:
        values = value if isinstance(value, list) else [value]
        return ", ".join(_name(one) if isinstance(one, str) else str(one) for one in values)

    values = config.to_dict()
    return [(name, shown(values[name])) for name in sorted(config.given) if name in values and name not in HIDDEN]


def _name(text: str) -> str:
    """A name without the place it has on this machine."""
    return Path(text).name if Path(text).expanduser().exists() or Path(text).is_absolute() else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table([head, *rows])

"""What a checkpoint is: sizes, LoRA shape, prompts and the base model it stands on.

Reads this project's own ``config.json`` and the fields of the published one (``compr_rate``, ``decoder_model_name``).
Source of the published fields: ml-clara commit 857c3cf, PISCO.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from clara_model.checkpoint.prompts import PromptSet
from clara_model.errors import ClaraError, shown

FORMAT = "clara-1"
ROLES = ("compressor", "query_reasoner", "generator")
PUBLISHED_STAGES = {"stage1": "pretrain", "stage1_2": "instruct", "stage2": "end_to_end"}
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""The same layers where queries, keys and values, and gate and up, are one each (Phi)."""
RESIDUALS = ("none", "anchors")
RANKINGS = ("cosine", "late")
MAX_NEW_TOKENS = 128
"""Tokens of an answer at most, where a caller does not say."""
LARGEST = 2**20
"""No size of a configuration is larger; a checkpoint's sizes are compared with its tensors besides."""
LARGEST_JSON = 64 * 1024 * 1024
"""Bytes of a JSON file that is read at most."""
_LATER = ("base_sha256", "residual", "lora_targets", "ranking", "word_weight", "expand")
"""Fields that the first version did not have; at their defaults they are not written."""
_SIZES = ("doc_max_length", "compression_rate", "lora_rank", "lora_alpha", "top_k", "max_prompt_length")
_NUMBERS: dict[str, tuple[type[float], float, float, str]] = {
    **dict.fromkeys(_SIZES, (int, 1, LARGEST, f"a whole number between 1 and {LARGEST}")),
    "lora_dropout": (float, 0, math.nextafter(1, 0), "in [0, 1)"),
    "word_weight": (float, 0, 1000, "a number from 0 to 1000"),
    "expand": (int, 0, LARGEST, f"a whole number from 0 to {LARGEST}"),
}


@dataclass(frozen=True, kw_only=True)
class ClaraConfig:
    """Everything but the weights of a CLaRa model. Unknown fields are refused; every value is checked."""

    base_model: str
    """Hub name or folder of the base language model; a path that starts with ``./`` lies inside the checkpoint."""
    base_revision: str | None = None
    """Revision of the base model on the hub."""
    base_sha256: str | None = None
    """SHA-256 of the base model's GGUF file, where ``base_model`` names one; another file is refused."""
    doc_max_length: int = 256
    """Document tokens that are read; what follows is cut (paper section 4: 256)."""
    compression_rate: int = 16
    """Document tokens per memory token; ``memory_tokens = doc_max_length // compression_rate``."""
    residual: str = "none"
    """``anchors``: latents are sums of the text's own embeddings plus gated states (`modeling.residual`); ``none``."""
    ranking: str = "cosine"
    """The score of a document for a question: ``cosine`` of the flattened blocks (paper section 3.3), or ``late``:
    every slot of the question seeks its likest of the document (`modeling.ranking`); needs ``anchors``."""
    word_weight: float = 0.0
    """How much a candidate's share of the question's words adds to the score of its latents where its text is at hand
    (``Clara(ranking="hybrid")``, the default of a checkpoint whose weight is above 0)."""
    expand: int = 0
    """How many of the windows that are read enter the prompt as text by default, best first."""
    roles: tuple[str, ...] = ROLES
    """The roles that have an adapter; a PISCO-like checkpoint has no query reasoner."""
    lora_rank: int = 16
    """Rank of every LoRA matrix (paper: 16)."""
    lora_alpha: int = 32
    """LoRA scale is ``lora_alpha / lora_rank`` (paper: 2.0)."""
    lora_targets: tuple[str, ...] = LORA_TARGETS
    """The linear layers that have adapters, by the last part of their names."""
    lora_dropout: float = 0.1
    """Dropout on the LoRA input while training; never at inference."""
    top_k: int = 5
    """Documents that the generator reads by default (paper: 5)."""
    max_prompt_length: int = 1024
    """Generator prompt tokens, slots included; a longer question is shortened to fit."""
    stage: str = "end_to_end"
    """The last stage the checkpoint was trained in: ``pretrain``, ``instruct`` or ``end_to_end``."""
    prompts: PromptSet = field(default_factory=PromptSet)
    """The chat prompts the checkpoint was trained with."""
    licence: str | None = None
    """Of the weights, e.g. ``Apache-2.0``; None where it is not known."""

    def __post_init__(self) -> None:
        for name, (kind, least, most, what) in _NUMBERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, kind)) or not least <= value <= most:
                raise ClaraError(f"{name} must be {what}, got {shown(value)}")
        if self.compression_rate > self.doc_max_length:
            raise ClaraError(
                f"compression_rate must be at most doc_max_length ({self.doc_max_length}), got {self.compression_rate}"
            )
        self._check_names()

    def _check_names(self) -> None:
        roles = self.roles if isinstance(self.roles, tuple) else ()
        known = [role for role in roles if isinstance(role, str) and role in ROLES]
        if not known or len(known) < len(roles) or len(set(known)) < len(known):
            raise ClaraError(f"roles must be some of {', '.join(ROLES)}, each once, got {shown(self.roles)}")
        targets = self.lora_targets if isinstance(self.lora_targets, tuple) else ()
        if not targets or not all(isinstance(one, str) and one.isidentifier() for one in targets):
            raise ClaraError(f"lora_targets must be names of layers, e.g. q_proj, got {shown(self.lora_targets)}")
        stages = tuple(PUBLISHED_STAGES.values())
        for name, choices in (("residual", RESIDUALS), ("ranking", RANKINGS), ("stage", stages)):
            if getattr(self, name) not in choices:
                raise ClaraError(f"{name} must be one of {', '.join(choices)}, got {shown(getattr(self, name))}")
        if self.ranking == "late" and self.residual != "anchors":
            raise ClaraError(f"ranking late needs residual anchors, whose questions have slots; got {self.residual}")
        if self.base_sha256 is not None and not isinstance(self.base_sha256, str):
            raise ClaraError(f"base_sha256 must be a SHA-256 or null, got {shown(self.base_sha256)}")
        if not isinstance(self.base_model, str) or not self.base_model or not self.base_model.isprintable():
            raise ClaraError(f"base_model must be a hub name or a folder, got {shown(self.base_model)}")
        if self.base_revision is not None and not isinstance(self.base_revision, str):
            raise ClaraError(f"base_revision must be a name or null, got {shown(self.base_revision)}")
        if not isinstance(self.prompts, PromptSet):
            raise ClaraError(f"prompts must be a PromptSet, got {shown(self.prompts)}")

    @property
    def memory_tokens(self) -> int:
        """``M``: memory tokens per document."""
        return self.doc_max_length // self.compression_rate

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` reads them back. Later fields are left out at their defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {f.name: values[f.name] for f in fields(self) if f.name not in _LATER or values[f.name] != f.default}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return {"format": FORMAT, **values, **lists, "prompts": self.prompts.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from `to_dict`'s form.

        Raises:
            ClaraError: an unknown format or field, or a value out of range.
        """
        values = dict(values)
        found = values.pop("format", None)
        if found != FORMAT:
            raise ClaraError(f"config.json has format {found!r}; this version reads {FORMAT!r}")
        positions = values.pop("memory_positions", "appended")
        if positions != "appended" or values.get("residual") == "blocks":
            asked = f"memory_positions {positions!r}" if positions != "appended" else "residual 'blocks'"
            raise ClaraError(f"config.json asks for {asked}, which was an experiment; train it again with anchors")
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ClaraError(f"config.json has unknown fields {', '.join(unknown)}; was it saved by a newer version?")
        if "base_model" not in values:
            raise ClaraError("config.json does not name its base_model")
        for name in ("roles", "lora_targets"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        values["prompts"] = PromptSet.from_dict(values.get("prompts", {}))
        return cls(**values)


def from_published(
    values: dict[str, Any], roles: tuple[str, ...], prompts: PromptSet, lora_targets: tuple[str, ...] = LORA_TARGETS
) -> ClaraConfig:
    """Read the fields of a published ``config.json`` (CLaRa or PISCO); roles and layers are those of ``adapters.pth``.

    Raises:
        ClaraError: a needed field is missing, or the checkpoint has a shape this package does not read.
    """
    base_model = values.get("decoder_model_name") or values.get("compr_base_model_name")
    if base_model is None or values.get("compr_rate") is None:
        lacking = "decoder_model_name" if base_model is None else "compr_rate"
        raise ClaraError(f"config.json lacks {lacking!r}; it is not a published CLaRa or PISCO configuration")
    if values.get("compr_model_name"):
        raise ClaraError(f"a separate compressor model ({shown(values['compr_model_name'])}) is not supported")
    if not values.get("lora", True):
        raise ClaraError("a checkpoint without LoRA adapters ('lora': false) is not supported")
    if not values.get("different_mem_tokens", True) or not values.get("sep", True):
        raise ClaraError("a checkpoint with 'different_mem_tokens' or 'sep' off is not supported")
    rank, stage = _whole(values, "lora_r", 16), values.get("training_stage")
    return ClaraConfig(
        base_model=base_model,
        doc_max_length=_whole(values, "doc_max_length", 128),
        compression_rate=_whole(values, "compr_rate", 16),
        roles=roles,
        lora_rank=rank,
        lora_alpha=2 * rank,
        lora_targets=lora_targets,
        top_k=_whole(values, "generation_top_k", 1),
        stage=PUBLISHED_STAGES.get(stage, "instruct") if isinstance(stage, str) else "instruct",
        prompts=prompts,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Parse one JSON object from a file, or say in one sentence what is wrong with it."""
    if path.stat().st_size > LARGEST_JSON:
        raise ClaraError(f"{path} has {path.stat().st_size} bytes, which no JSON file of a checkpoint has")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ClaraError(f"{path} is nested too deeply to be read") from error
    except ValueError as error:  # of its syntax or its encoding
        raise ClaraError(f"{path} is not valid JSON ({error}); is the download complete?") from error
    if not isinstance(values, dict):
        raise ClaraError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def _whole(values: dict[str, Any], name: str, default: int) -> int:
    """A published size, which may be written as 16.0."""
    value = values.get(name, default)
    if isinstance(value, float) and value.is_integer() and value <= LARGEST:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise ClaraError(f"{name} must be a whole number between 1 and {LARGEST}, got {shown(value)}")
    return value

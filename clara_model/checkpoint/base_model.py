"""Loading the base language model and its tokenizer: where it lies, its float type, attention and quantization."""

from __future__ import annotations

import hashlib
import logging
import re
import weakref
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers import __version__ as transformers_version
from transformers.utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
    is_kernels_available,
)

from clara_model.checkpoint import base_files, devices, gguf
from clara_model.checkpoint.config import read_json
from clara_model.checkpoint.hashes import files_key
from clara_model.checkpoint.options import LoadOptions
from clara_model.errors import ClaraError, blaming, shown

logger = logging.getLogger(__name__)

_keys: weakref.WeakKeyDictionary[PreTrainedModel, str] = weakref.WeakKeyDictionary()
ATTENTION = ("sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
KERNELS = "kernels-community/"
"""Attention kernels of the hub, built already; transformers loads no other owner's."""
HUB_NAMES = {
    "Mistral-7B-Instruct-v0.2": "mistralai/Mistral-7B-Instruct-v0.2",
    "Mistral-7B-Instruct-v0.3": "mistralai/Mistral-7B-Instruct-v0.3",
    "Phi-4-mini-instruct": "microsoft/Phi-4-mini-instruct",
    "Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
}
"""Hub names for base models that published configurations name by a path of the machine they were trained on."""


def resolve_base(name: str, folder: Path) -> str:
    """The base model's folder or hub name, as a checkpoint in ``folder`` names it.

    A path that does not exist here is mapped by its last part to the hub name, with a warning.

    Raises:
        ClaraError: a path that does not exist and whose last part is not known.
    """
    beside = folder / name
    if name.startswith("./") and beside.exists():
        return str(beside)
    if gguf.is_gguf(name):
        return name
    if Path(name).is_dir() or not re.match(r"^(/|\.|~)|.*/.*/", name):
        return name
    last = Path(name).name
    if last not in HUB_NAMES:
        raise ClaraError(f"the checkpoint's base model {name!r} does not exist here; pass base_model= with its name")
    hub_name = HUB_NAMES[last]
    logger.warning("the checkpoint names its base model by a path that is not here (%s); using %s", name, hub_name)
    return hub_name


def load_base(
    name: str, options: LoadOptions, sha256: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a causal language model and its fast tokenizer.

    Args:
        name: folder or hub name, or a GGUF file as in `checkpoint.gguf`.
        options: ``revision`` and ``token`` are the base model's here; what concerns a checkpoint is not used.
        sha256: of the GGUF file.

    Raises:
        ClaraError: the model is not there, or something asked for is not installed.
    """
    options = options.resolved()
    device, attention = torch.device(options.device or "cpu"), str(options.attn_implementation)
    _check_attention(attention, device)
    quantization = devices.settings(options.quantization, cast(torch.dtype, options.dtype))
    if gguf.is_gguf(name):
        folder = gguf.base_folder(name, options.revision, sha256, options.token)
    else:
        folder = base_files.find(name, options.revision, options.token)
    files = base_files.check(folder)
    tokenizer = load_tokenizer(files.folder)
    key = files_key(files.folder / base_files.CONFIG, *files.weights)
    with blaming(files.weights[0] if len(files.weights) == 1 else files.folder), base_files.without_bars():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            files.folder,
            dtype=options.dtype,
            attn_implementation=attention,
            quantization_config=quantization,
            device_map={"": device} if quantization else None,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, found = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    lacking = sorted(found["missing_keys"])
    if lacking:
        where = ", ".join(file.name for file in files.weights[:3])
        raise ClaraError(f"the weights in {files.folder} ({where}) lack {lacking[0]!r}; is the download complete?")
    _check_vocabulary(model, tokenizer, files.folder)
    _check_ends(model, files.folder)
    devices.keep_as_loaded(model)
    if quantization is None:
        nn.Module.to(model, device)
    how = f"{options.dtype} {options.quantization} {transformers_version}"
    _keys[model] = hashlib.sha256(f"{key} {how}".encode()).hexdigest()
    return model, tokenizer


def weights_key(base: PreTrainedModel) -> str | None:
    """What tells the files and the way that a base was loaded by from any others; None for one that was built."""
    return _keys.get(base)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a base model's folder; code that the folder brings is never run.

    Raises:
        ClaraError: naming the file that is missing or damaged.
    """
    main, how = folder / "tokenizer.json", folder / base_files.TOKENIZER_CONFIG
    if not main.is_file():
        raise ClaraError(f"{folder} holds no fast tokenizer (tokenizer.json), which is needed")
    if how.is_file() and "auto_map" in read_json(how):
        raise ClaraError(f"{how} asks for code of its own (auto_map), which is never run")
    with blaming(how):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            tokenizer("A probe: \u00fc, \u4e2d, \U0001f600 and 1.")  # some damage shows only in use
        except BaseException:  # also the panics of a library that is no Python
            _check_tokenizer_files(folder)
            raise
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ClaraError(f"{folder} holds no fast tokenizer (tokenizer.json), which is needed")
    return tokenizer


def _check_tokenizer_files(folder: Path) -> None:
    """Find the file that made reading a tokenizer fail.

    Raises:
        ClaraError: naming it; nothing is raised where each file by itself can be read.
    """
    for name in ("special_tokens_map.json", "added_tokens.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    main = folder / "tokenizer.json"
    lacking = [name for name in ("added_tokens", "model") if name not in read_json(main)]
    if lacking:
        raise ClaraError(f"{main} lacks {lacking[0]!r}; is the download complete?")
    with blaming(main):
        PreTrainedTokenizerFast(tokenizer_file=str(main))("A probe.")


def _check_ends(model: PreTrainedModel, folder: Path) -> None:
    """The special tokens that generation goes by are ids, or there would be an error in the middle of an answer."""
    path = folder / "generation_config.json"
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(model.generation_config, name, None)
        ids = value if isinstance(value, list) and value else [] if value is None else [value]
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in ids) or [] == value:
            where = path if path.is_file() else folder / base_files.CONFIG
            raise ClaraError(f"{where} has {name} {shown(value)}, which is no token's id; is the download complete?")


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Every id of the tokenizer must have a row, or a text would be read from random numbers."""
    rows = len(cast(torch.Tensor, model.get_input_embeddings().weight))
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= min(rows, len(tokenizer)):
        raise ClaraError(
            f"{folder / 'tokenizer.json'} has {len(tokenizer)} tokens with ids up to {largest}, the weights have rows "
            f"for {rows}; do the two belong together?"
        )


class _Without(logging.Filter):
    """Drops the records that begin with given texts."""

    def __init__(self, *beginnings: str) -> None:
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginnings)


def resize_embeddings(base: PreTrainedModel, rows: int, mean_of_old: bool = True) -> None:
    """Resize the input and output embeddings to ``rows``.

    Args:
        base: changed in place.
        rows: vocabulary with the added tokens.
        mean_of_old: draw added rows around the mean of the old ones; False where they are about to be loaded,
            because the old rows' covariance takes seconds on a 7B model: they then hold anything.
    """
    if not mean_of_old:
        _resize_without_drawing(base, rows)
        return
    drop = _Without("The new embeddings will be initialized", "The new lm_head weights will be initialized")
    source = logging.getLogger("transformers.modeling_utils")
    source.addFilter(drop)
    try:
        base.resize_token_embeddings(rows)
    finally:
        source.removeFilter(drop)


@torch.no_grad()
def _resize_without_drawing(base: PreTrainedModel, rows: int) -> None:
    """As `resize_token_embeddings`, which draws all rows before it copies the old ones."""
    grown: dict[nn.Parameter, nn.Parameter] = {}
    for layer, size in (
        (base.get_input_embeddings(), "num_embeddings"),
        (base.get_output_embeddings(), "out_features"),
    ):
        for name, old in layer.named_parameters(recurse=False):  # a tied matrix stays tied
            if old not in grown:
                new = old.new_empty(rows, *old.shape[1:])
                new[: len(old)] = old[:rows]
                grown[old] = nn.Parameter(new, requires_grad=old.requires_grad)
            setattr(layer, name, grown[old])
        setattr(layer, size, rows)
    base.config.get_text_config().vocab_size = rows
    base.vocab_size = rows  # type: ignore[assignment]


def _check_attention(attention: str, device: torch.device) -> None:
    flash = {
        "flash_attention_2": is_flash_attn_2_available,
        "flash_attention_3": is_flash_attn_3_available,
        "flash_attention_4": is_flash_attn_4_available,
    }
    kernel = attention.startswith(KERNELS)
    if attention not in ATTENTION and not kernel:
        known = f"{', '.join(ATTENTION)} or a kernel such as {KERNELS}flash-attn2"
        raise ClaraError(f"attn_implementation must be one of {known}, got {attention!r}")
    here = is_kernels_available() or (attention in flash and flash[attention]())
    if (kernel or attention in flash) and (device.type == "cpu" or not here):
        own = "" if kernel else ", or its own,"
        raise ClaraError(
            f"{attention} was asked for but needs a GPU (here {device.type}) and the package kernels{own}; "
            "install it on a GPU machine, or use sdpa"
        )


def only_tokens(defaults: GenerationConfig | None) -> GenerationConfig:
    """A base model's special tokens without its sampling habits, which must not leak into greedy answers."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: getattr(defaults, name, None) for name in names})

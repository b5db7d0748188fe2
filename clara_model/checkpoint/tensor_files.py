"""Pickled tensor files (``.pth``, ``.bin``), read as data: anything but tensors and plain containers is refused.

Nothing in a file is ever run, and nothing larger than the file is unpacked from it.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from clara_model.errors import ClaraError


def load_pickle(path: Path, *, shapes_only: bool = False) -> dict[str, Any]:
    """Contents of a file that ``torch.save`` wrote.

    Args:
        path: the file.
        shapes_only: tensors come on the meta device; their values are not read.

    Raises:
        ClaraError: the file is missing, damaged, compressed, or holds pickled code.
    """
    _check_container(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of a file that is refused in the next step
            loaded = torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = "GLOBAL" in str(error) or "class" in str(error)
        what = "holds pickled code, not only tensors" if code else "is damaged or holds pickled code"
        raise ClaraError(f"{path} {what}; it was refused and nothing in it was run") from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the reader meets a damaged file with errors of any kind
        first = str(error).partition(". ")[0].partition("\n")[0]
        raise ClaraError(f"{path} is damaged ({first or type(error).__name__}); download it again") from error
    if not isinstance(loaded, dict):
        raise ClaraError(f"{path} must hold a dictionary of tensors, got {type(loaded).__name__}")
    return loaded


def _check_container(path: Path) -> None:
    """Refuse what is neither a zip archive nor a pickle (a pointer, an error page), and compressed archives."""
    if not path.is_file():
        raise ClaraError(f"{path} is missing; is the download complete?")
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":
        raise ClaraError(f"{path} is not a PyTorch file; download it again")
    if start != b"PK":
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ClaraError(f"{path} is damaged ({error}); download it again") from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ClaraError(f"{path} unpacks to more than it holds, which torch.save never writes; download it again")


Shapes = dict[str, tuple[int, ...]]


def safetensors_shapes(path: Path) -> Shapes:
    """The shape of each tensor by name.

    Raises:
        ClaraError: the file is missing, damaged, or holds a tensor without numbers.
    """
    if not path.is_file():
        raise ClaraError(f"{path} is missing; is the download complete?")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ClaraError(f"{path} is damaged ({error}); download it again") from error
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty or not shapes:
        what = f"holds {empty[0]!r} of shape {shapes[empty[0]]}" if empty else "holds no tensor"
        raise ClaraError(f"{path} {what}; download it again")
    return shapes


def safetensors_note(path: Path, name: str) -> str:
    """What a file that can be read says about itself under a name; nothing where it is silent."""
    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get(name, ""))

"""What a safetensors file holds, from its header: names and shapes, read before anything of its size is built."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from clara_model.errors import ClaraError

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

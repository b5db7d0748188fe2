"""Checkpoints to the hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from clara_model.checkpoint import files
from clara_model.checkpoint.files import Checkpoint
from clara_model.errors import ClaraError

logger = logging.getLogger(__name__)

_HTTP_ERROR = cast(type[Exception], HfHubHTTPError.__bases__[0])
"""Of the HTTP library that the hub's client stands on, which changed with its versions."""


def push(checkpoint: Checkpoint, repository: str, *, private: bool = True, token: str | None = None) -> str:
    """Write a checkpoint to a hub repository, which is made when it is not there.

    Returns:
        the commit's address.
    """
    base = checkpoint.config.base_model
    if Path(base).is_dir():
        logger.warning(
            "the checkpoint names a base model that only this machine has (%s); others must pass base_model=", base
        )
    with TemporaryDirectory() as folder:
        files.write(checkpoint, Path(folder))
        return upload(Path(folder), repository, private=private, token=token)


def upload(folder: Path, repository: str, *, private: bool = True, token: str | None = None) -> str:
    """Send a folder that holds nothing but a model and its card; returns the commit's address.

    Raises:
        ClaraError: the hub cannot be reached, or refuses.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=str(folder)))
    except (HFValidationError, OfflineModeIsEnabled, OSError, _HTTP_ERROR) as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ClaraError(
            f"{folder} could not be sent to {repository!r} on the hub ({why}); check the name, the network and the "
            "token (hf auth login)"
        ) from error


def licence(folder: Path) -> str | None:
    """The licence that the card beside a checkpoint names in its header, or the card in the folder above."""
    for card in (folder / "README.md", folder.parent / "README.md"):
        if not card.is_file():
            continue
        header = card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
        fields = dict(re.findall(r"^(license|license_name):[ \t]*(\S+)[ \t]*$", header, flags=re.MULTILINE))
        if header.startswith("---") and fields:
            return str(fields.get("license_name") or fields["license"])
    return None

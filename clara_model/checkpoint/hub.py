"""Checkpoints to the hub."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi

from clara_model.checkpoint import files
from clara_model.checkpoint.files import Checkpoint

logger = logging.getLogger(__name__)


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
    """Send a folder that holds nothing but a checkpoint and its card; returns the commit's address."""
    api = HfApi(token=token)
    api.create_repo(repository, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repository, folder_path=str(folder)))

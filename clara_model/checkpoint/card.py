"""What a checkpoint's model card says, as far as it is needed: the licence of the weights."""

from __future__ import annotations

import re
from pathlib import Path


def licence(folder: Path) -> str | None:
    """The licence that the card beside a checkpoint names in its header, or the one of the repository around it.

    Args:
        folder: of the checkpoint; of one in a subfolder the card stands in the folder above.
    """
    for card in (folder / "README.md", folder.parent / "README.md"):
        if not card.is_file():
            continue
        header = card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
        fields = dict(re.findall(r"^(license|license_name):[ \t]*(\S+)[ \t]*$", header, flags=re.MULTILINE))
        if header.startswith("---") and fields:
            return str(fields.get("license_name") or fields["license"])
    return None

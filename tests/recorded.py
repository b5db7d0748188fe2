"""Where the recorded numbers lie: the full set beside the checkout, or the small one in it.

Both have one layout. What only the full set has is asked for with `need`, which skips the test where it is not there.
"""

from pathlib import Path

import pytest

SMALL = Path(__file__).parent / "goldens"
FULL = Path(__file__).parents[2] / "shared" / "goldens"


def folder() -> Path:
    """The fuller of the two sets that are here."""
    return FULL if FULL.is_dir() else SMALL


def need(path: Path) -> Path:
    """The path itself, where it is part of the set."""
    if not path.exists():
        pytest.skip(f"{path.name} is in the full set of recorded numbers only")
    return path

"""The extra that brings a missing framework, named where its import fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def naming_extra(framework: str, extra: str) -> Iterator[None]:
    """Imports inside the block that fail because the framework is not installed say which extra brings it.

    Raises:
        ModuleNotFoundError: as it was, but for its text.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != framework:
            raise
        raise ModuleNotFoundError(
            f"{error.name} is not installed; the extra {extra!r} brings it: pip install '.[{extra}]' in a checkout of "
            "clara-integrations",
            name=error.name,
        ) from error

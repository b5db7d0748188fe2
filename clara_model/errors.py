"""The one error type for what a user can put right, such as a bad checkpoint or latents of another model.

Plain misuse of an argument raises ``ValueError`` or ``TypeError``; ``ClaraError`` is a ``ValueError``, so that one
``except`` serves both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ClaraError(ValueError):
    """What was wrong, the value that was given, and how to put it right, in one sentence."""


class EngineError(ClaraError):
    """The engine that writes (``engine_url``) cannot be reached, serves another generator, or has failed."""


def shown(value: object) -> str:
    """A value as it is written, no longer than a sentence can bear; a tuple looks as the list that it was in JSON."""
    try:
        text = repr(list(value) if isinstance(value, tuple) else value)
    except (RecursionError, ValueError):  # nested deeply, or a number of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:80]}.."


@contextmanager
def needing(what: str, package: str, extra: str = "", kind: type[ClaraError] = ClaraError) -> Iterator[None]:
    """Where an import inside the block fails: one sentence with the package and how to install it."""
    try:
        yield
    except ImportError as error:
        how = f"'clara-integrations[{extra}]'" if extra else package
        raise kind(f"{what} needs the package {package}; install it with: pip install {how}") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a `ClaraError` that is raised inside the block begin with the file, where it names none of the folder."""
    try:
        yield
    except ClaraError as error:
        if str(path.parent) in str(error):
            raise
        raise ClaraError(f"{path}: {error}") from error


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn what a library raises inside the block, reading a file that is damaged, into one sentence that names it.

    Libraries meet damaged files with errors of any kind, tokenizers with a Rust panic that is no `Exception`. Memory
    that ends is the machine's fault, not the file's, and passes.
    """
    try:
        yield
    except (ClaraError, MemoryError):
        raise
    except BaseException as error:
        panicked = type(error).__name__ == "PanicException"
        out_of_memory = type(error).__name__ == "OutOfMemoryError"
        if out_of_memory or not (panicked or isinstance(error, Exception)):
            raise
        message = " ".join(str(error).split()).rstrip(".")
        why = f"{type(error).__name__}: {message[:300]}" if message else type(error).__name__
        raise ClaraError(f"{path} cannot be used ({why}); is the download complete?") from error

"""JSON lines, plain or gzipped: reading them with their places, and writing a file that appears whole or not at all."""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from clara_model.errors import ClaraError


def decode(line: bytes | str) -> object:
    """The JSON value of a line; a `ClaraError` if it has none, or too deep a one, or a number of too many digits."""
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ClaraError("not valid JSON (nested too deeply to be read)") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ClaraError(f"not valid JSON ({error})") from error
    except ValueError as error:  # of `int`, which reads no more than `sys.get_int_max_str_digits` digits
        raise ClaraError("not valid JSON (a whole number has too many digits to be read)") from error


def opened(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked where it is gzipped."""
    return cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a file that are not blank, with their place (``file:line``); a `ClaraError` if it cannot be read."""
    try:
        with opened(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line
    except (OSError, EOFError, zlib.error) as error:
        raise ClaraError(f"{path} could not be read ({error})") from error


def values_of(path: Path) -> Iterator[tuple[str, object]]:
    """The same lines' JSON values. Raises `ClaraError`: it cannot be read, or a line is none."""
    for place, line in lines_of(path):
        try:
            yield place, decode(line)
        except ClaraError as error:
            raise ClaraError(f"{place}: {error}") from error


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Find out before the work, by a `ClaraError`, whether the file cannot be written after it."""
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ClaraError(f"the output must end in .jsonl or .jsonl.gz, got {path}")
    if not path.parent.is_dir():
        raise ClaraError(f"the folder of the output does not exist: {path.parent}")
    if path.exists() and not overwrite:
        raise ClaraError(f"{path} exists already; delete it or name another --out")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows beside the file's place and move them there when all are written; returns how many. No rows, no file.

    The bytes depend on the rows alone: a gzipped file holds no time and no name.
    """
    part = path.with_name(f"{path.name}.part")
    number = 0
    try:
        with part.open("wb") as raw:
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else None
            with io.TextIOWrapper(packed or raw, encoding="utf-8", errors="replace", newline="\n") as file:
                for number, row in enumerate(rows, start=1):  # noqa: B007 - the count
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if number:
            os.replace(part, path)
        else:
            part.unlink()
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return number

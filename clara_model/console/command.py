"""What the commands share: loading the model, standard output, signs of progress on a terminal, JSON."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from clara_model.checkpoint import options
from clara_model.checkpoint.bundled_models import BUNDLED
from clara_model.console import tables

if TYPE_CHECKING:
    from clara_model.inference.clara import Answer, AnswerStream, Clara
    from clara_model.store import DurableStore

LEFT_OUT = 3
"""Exit code: all is done but for inputs that could not be read."""
WIDTH_OF_A_FILE = 160
"""Columns of a table that goes to a pipe or file."""


def load(args: argparse.Namespace, store: str | DurableStore | None = None) -> Clara:
    """Load the model the arguments name, with a store if one is named, with a sign of life on a terminal.

    A download shows bars of its own.
    """
    on_disk = (BUNDLED / args.model).is_dir() or Path(args.model).exists()
    with working(f"Loading {args.model}", args) if on_disk else nullcontext():
        with _without_collecting():
            from huggingface_hub.utils import disable_progress_bars
            from transformers.utils import logging as transformers_logging

            from clara_model.inference.clara import Clara

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()  # of reading weights; downloads keep theirs
        if args.quiet or not sys.stderr.isatty():
            disable_progress_bars()
        keywords: dict[str, Any] = {name: getattr(args, name, None) for name in options.NAMES}
        if "cold" in args:
            keywords["cold"] = args.cold
        return Clara.load(args.model, store=store, **keywords)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Imports make a million objects that stay; looking for garbage among them takes a seventh of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def output() -> Console:
    """Standard output; lines are left whole, and a pipe or file gets tables that are wide enough."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)


def progress(args: argparse.Namespace) -> Progress:
    """A bar for counted work, on a terminal only; gone when the work is done."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=args.quiet or not console.is_terminal)


def working(what: str, args: argparse.Namespace) -> AbstractContextManager[object]:
    """A moving sign that work goes on, on a terminal only."""
    console = Console(stderr=True)
    return nullcontext() if args.quiet or not console.is_terminal else console.status(tables.shortened(what, 60))


def streamed(stream: AnswerStream, args: argparse.Namespace) -> Answer:
    """Print the pieces of an answer as they come; the whole answer."""
    with stream:
        with working("Answering", args):
            piece = next(stream, None)
        while piece is not None:
            sys.stdout.write(tables.visible(piece))
            sys.stdout.flush()
            piece = next(stream, None)
    sys.stdout.write("\n")
    return stream.answer


def print_json(record: object) -> None:
    """Write a result to standard output."""
    sys.stdout.write(json.dumps(record, ensure_ascii=False, indent=2, default=str) + "\n")


def at_least_one(word: str) -> int:
    """A whole number of at least 1, for an argument."""
    try:
        value = int(word)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {word!r}")
    return value

"""What the four commands share: how one runs and ends, standard output, signs of progress on a terminal, the model.

Results go to standard output, alone; progress, notes, errors and what libraries print to standard error. `EXIT_CODES`
says how commands end.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.text import Text

from clara_model.checkpoint import options
from clara_model.checkpoint.bundled_models import BUNDLED
from clara_model.console import tables

if TYPE_CHECKING:
    from clara_model.inference.clara import Answer, AnswerStream, Clara
    from clara_model.store import DurableStore

UNEXPECTED, USER_ERROR, LEFT_OUT, INTERRUPTED = 1, 2, 3, 130
EXIT_CODES = (
    "Exit codes: 0 all done; 1 an error of the program itself; 2 something to put right, said in one sentence; "
    "3 some inputs were left out, each named with its reason, and the rest is done; 130 interrupted."
)
WIDTH_OF_A_FILE = 160
"""Columns of a table that goes to a pipe or file."""
_results: TextIO | None = None
"""Standard output while a command runs."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the list of all options; takes flags with dashes or with underscores."""

    def error(self, message: str) -> NoReturn:
        """End the process with the line."""
        if message.startswith("unrecognized arguments: ") and ": -" not in message:
            message += "; a text of several words stands in quotes"
        self.exit(USER_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in the base class, after each flag is spelled as it is known here."""
        known = {_plain(flag): flag for flag in self._option_string_actions}
        words = [word.partition("=") for word in (sys.argv[1:] if args is None else args)]
        spelled = [known.get(_plain(flag), flag) + sign + value for flag, sign, value in words]
        return super().parse_known_args(spelled, namespace)


def _plain(flag: str) -> str:
    return flag.replace("_", "-") if flag.startswith("--") else flag


def add_load_options(parser: argparse._ActionsContainer) -> None:
    """How a checkpoint is loaded: `LoadOptions`, but for the token, which no command line should show."""
    add = parser.add_argument
    add("--subfolder", help="folder of the checkpoint inside the repository, e.g. compression-16")
    add("--revision", help="branch, tag or commit of the repository")
    add("--base-model", metavar="NAME", help="base model to use instead of the one the checkpoint names")
    add("--prompts", metavar="FILE", help="prompts (JSON) to use instead of the checkpoint's")
    add("--device", help="where to compute, e.g. cpu, cuda (default: the fastest there is)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="number format of the weights")
    add("--attn-implementation", metavar="NAME", help="as transformers names it (default: sdpa)")
    add("--decoding", choices=options.DECODINGS, help="products on a CPU: in the fastest float types or as the weights "
        "are (default: quick, or exact with --dtype float32); on a GPU: compiled")  # fmt: skip
    add("--quantization", choices=("int8", "int4"), help="smaller base weights (extra quantization)")


def run(
    name: str,
    parse: Callable[[], argparse.Namespace],
    act: Callable[[argparse.Namespace], int | None],
    interrupted: str = "Interrupted.",
    *,
    notes: bool = True,
) -> int:
    """Run a command; what goes wrong is one sentence on standard error.

    Args:
        name: of the program.
        parse: gives its arguments; ``quiet`` among them leaves out warnings.
        act: what it does; returns the exit code, or None for 0.
        interrupted: what to say when the user ends it.
        notes: whether to show this project's warnings; False for a command that keeps a log.
    """
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = _nowhere()
    _replace_what_cannot_be_written()
    results = sys.stdout
    try:
        args = parse()
        quiet = getattr(args, "quiet", False)
        with _results_apart(quiet), _notes(name, quiet) if notes else nullcontext():
            code = act(args) or 0
        results.flush()
        return code
    except BrokenPipeError:  # the reader of our output has left, e.g. `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), results.fileno())
        return 0
    except KeyboardInterrupt:
        _errors().print(Text(interrupted))
        return INTERRUPTED
    except (ValueError, TypeError, OSError) as error:
        show_error(name, _sentence(error))
        return USER_ERROR
    except Exception as error:
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        show_error(name, f"unexpected {type(error).__name__}: {_sentence(error)} (please report it)")
        return UNEXPECTED


@contextmanager
def _results_apart(quiet: bool) -> Iterator[None]:
    """What libraries print goes to standard error, or nowhere."""
    global _results
    before, _results = _results, sys.stdout
    try:
        with redirect_stdout(_nowhere() if quiet else sys.stderr):
            yield
    finally:
        _results = before


@cache
def _nowhere() -> TextIO:
    """Never closed: a library that logs to standard output keeps what that was."""
    return open(os.devnull, "w", encoding="utf-8")


@contextmanager
def _notes(name: str, quiet: bool) -> Iterator[None]:
    """Show this project's warnings as lines on standard error, unless quiet."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    loggers = [logging.getLogger(package) for package in ("clara_model", "trainers")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _replace_what_cannot_be_written() -> None:
    """Let a terminal that is not UTF-8 show question marks instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _sentence(error: BaseException) -> str:
    """The error's message on one line; of a system error, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return " ".join(str(error).split()) or type(error).__name__


def _errors() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def show_error(name: str, sentence: str) -> None:
    """Print one sentence of a program to standard error."""
    _errors().print(Text(f"{name}: {sentence}"))


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
        if args.quiet or not sys.stderr.isatty():
            disable_progress_bars()
        given: dict[str, Any] = {name: value for name, value in vars(args).items() if name in options.LOAD_OPTIONS}
        given = {name: value for name, value in given.items() if value is not None} | {"store": store}
        return Clara.load(args.model, **given)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Imports make a million objects that stay; looking for garbage among them takes a seventh of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _stdout() -> TextIO:
    return sys.stdout if _results is None else _results


def output(width: int = WIDTH_OF_A_FILE) -> Console:
    """Standard output; lines are left whole, and a pipe or file gets tables of ``width`` columns."""
    file = _stdout()
    return Console(file=file, highlight=False, soft_wrap=True, width=None if file.isatty() else width)


def progress(quiet: bool, *columns: ProgressColumn) -> Progress:
    """A bar for counted work, on a terminal only; gone when the work is done."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


def working(what: str, args: argparse.Namespace) -> AbstractContextManager[object]:
    """A moving sign that work goes on, on a terminal only."""
    console = Console(stderr=True)
    return nullcontext() if args.quiet or not console.is_terminal else console.status(tables.shortened(what, 60))


def streamed(stream: AnswerStream, args: argparse.Namespace) -> Answer:
    """Print the pieces of an answer as they come; the whole answer."""
    out = _stdout()
    with stream:
        with working("Answering", args):
            piece = next(stream, None)
        while piece is not None:
            out.write(tables.visible(piece))
            out.flush()
            piece = next(stream, None)
    out.write("\n")
    out.flush()
    return stream.answer


def print_json(record: object) -> None:
    """Write a result to standard output."""
    out = _stdout()
    out.write(json.dumps(record, ensure_ascii=False, indent=2, default=str) + "\n")
    out.flush()


def argument(read: Callable[[str], float], least: float, most: float, what: str) -> Callable[[str], Any]:
    """What reads a number of a command line, and refuses one that is out of range."""

    def checked(word: str) -> float:
        try:
            value = read(word)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {what}, got {word!r}")
        return value

    return checked


def at_least(least: int) -> Callable[[str], int]:
    """Of an argument, a whole number that is no less."""
    return argument(int, least, math.inf, f"a whole number of at least {least}")


at_least_one = at_least(1)
port = argument(int, 0, 65535, "a port from 0 to 65535")
likelihood = argument(float, 0, 1, "a number from 0 to 1")

"""`clara`: ask questions about files, see the bundled model at work, and look into a checkpoint, from the command line.

Results go to standard output; progress, notes and errors to standard error (progress only to a terminal). Exit codes:
0 done, 2 something the user can put right, said in one sentence, 130 interrupted. Left out: training (see `trainers`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from clara_model.checkpoint import options
from clara_model.cli import demo, report
from clara_model.defaults import DEFAULT_MODEL
from clara_model.documents import passages

if TYPE_CHECKING:
    from clara_model.inference.clara import Answer, AnswerStream, Clara
    from clara_model.latents import Latents

_MODEL_HELP = "checkpoint: a folder or a hub name (default: %(default)s)"
USER_ERROR = 2
INTERRUPTED = 130
_TEXTS_PER_STEP = 128  # compressed between two steps of the progress bar
_WIDTH_OF_A_FILE = 160  # columns of a table that goes to a pipe or file


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `clara`; default: the process's own.

    Returns:
        The exit code.
    """
    args = _parser().parse_args(argv)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    _replace_what_cannot_be_written()
    try:
        with _notes(quiet=args.quiet):
            args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has left, e.g. `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return INTERRUPTED
    except (ValueError, TypeError, OSError) as error:
        errors.print(Text(f"clara: {_sentence(error)}"))
        return USER_ERROR
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="clara",
        description="Documents compressed to memory tokens, ranked and answered from the compressed form.",
    )
    parser.add_argument("--version", action="version", version=f"clara {version('clara-integrations')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    quiet = _Parser(add_help=False)
    quiet.add_argument("--quiet", action="store_true", help="only the result: no progress, no notes")
    model = _Parser(add_help=False)
    model.add_argument("--subfolder", help="folder of the checkpoint inside the repository, e.g. compression-16")
    model.add_argument("--revision", help="branch, tag or commit of the repository")
    model.add_argument("--base-model", metavar="NAME", help="base model to use instead of the one the checkpoint names")
    model.add_argument("--prompts", metavar="FILE", help="prompts (JSON) to use instead of the checkpoint's")
    model.add_argument("--device", help="where to compute, e.g. cpu, cuda (default: the fastest there is)")
    model.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="number format of the weights")
    model.add_argument("--quantization", choices=("int8", "int4"), help="smaller base weights (needs a GPU)")

    ask = commands.add_parser("ask", parents=[model, quiet], help="answer a question from files")
    ask.add_argument("question")
    ask.add_argument(
        "--docs",
        nargs="+",
        required=True,
        metavar="FILE_OR_FOLDER",
        help="what to read: .txt, .md, .jsonl (with text, contents or docs), folders, or - for standard input",
    )
    ask.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help=_MODEL_HELP)
    ask.add_argument(
        "--top-k", type=_at_least_one, metavar="K", help="passages the answer is read from (default: the model's)"
    )
    ask.add_argument("--max-new-tokens", type=_at_least_one, metavar="N", help="longest answer, in tokens")
    form = ask.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object instead of text")
    form.add_argument("--stream", action="store_true", help="print the answer piece by piece as it is written")
    ask.set_defaults(run=_ask)

    show = commands.add_parser("demo", parents=[quiet], help="the bundled model on the bundled documents")
    show.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help=_MODEL_HELP)
    show.add_argument(
        "--top-k", type=_at_least_one, metavar="K", help="passages an answer is read from (default: the model's)"
    )
    show.add_argument(
        "--png", type=Path, metavar="FILE", help="draw scores and times as a picture (needs the extra: plots)"
    )
    show.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    show.set_defaults(run=_demo)

    info = commands.add_parser("info", parents=[model, quiet], help="what a checkpoint is")
    info.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="NAME", help=_MODEL_HELP)
    info.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    info.set_defaults(run=_info)
    return parser


def _ask(args: argparse.Namespace) -> None:
    if not args.question.strip():
        raise ValueError("The question is blank.")
    documents = passages.read_documents(args.docs)  # before the model: what is wrong with the files shows at once
    clara = _load(args)
    with _working("Splitting documents", args):
        split = passages.split_documents(documents, clara.count_tokens, clara.doc_max_length)
    latents, spent = _compressed(clara, [passage.text for passage in split], args)
    limits = {} if args.max_new_tokens is None else {"max_new_tokens": args.max_new_tokens}
    out = _output()
    if args.stream:
        answer = _streamed(clara.stream(args.question, latents, args.top_k, **limits), args)
    else:
        with _working("Answering", args):
            answer = clara.answer(args.question, latents, args.top_k, **limits)
    answer = replace(answer, timings=replace(answer.timings, compress=spent))
    if args.json:
        _print_json(_ask_record(args, split, answer))
        return
    if not args.stream:
        out.print(Text(report.visible(answer.text)))
    if args.quiet:
        out.print(Text("Sources: " + "; ".join(report.visible(split[index].citation) for index in answer.selected)))
        return
    scores = {ranked.index: ranked.score for ranked in answer.ranking}
    rows = [(scores.get(index), split[index].citation, split[index].text, True) for index in answer.selected]
    out.print()
    out.print(report.ranking(rows, out.width))
    out.print()
    _print_costs(out, answer, len(split))


def _compressed(clara: Clara, texts: Sequence[str], args: argparse.Namespace) -> tuple[Latents, float]:
    """The latents of all texts and the seconds they took, part by part so that a terminal can show how far it is."""
    from clara_model.latents import Latents

    start = time.perf_counter()
    with _progress(args) as progress:
        parts = [
            clara.compress(texts[first : first + _TEXTS_PER_STEP])
            for first in progress.track(range(0, len(texts), _TEXTS_PER_STEP), description="Compressing passages")
        ]
    return Latents.stack(parts), time.perf_counter() - start


def _streamed(stream: AnswerStream, args: argparse.Namespace) -> Answer:
    """Print the pieces of an answer as they come; the whole answer."""
    with stream:
        with _working("Answering", args):
            piece = next(stream, None)
        while piece is not None:
            sys.stdout.write(report.visible(piece))
            sys.stdout.flush()
            piece = next(stream, None)
    sys.stdout.write("\n")
    return stream.answer


def _demo(args: argparse.Namespace) -> None:
    examples = demo.DemoSet.read(demo.BUNDLED_SET)
    if args.png:
        report.check_pictures()
        args.png.parent.mkdir(parents=True, exist_ok=True)
    clara = _load(args)
    out = _output()
    talk = not (args.json or args.quiet)
    if talk:
        documents = f"{len(examples.texts)} documents, {len(examples.questions)} questions"
        out.print(Text.assemble((args.model, "bold"), f" on {documents}; the documents are compressed once"))
    answers = []
    for question, accepted in zip(examples.questions, examples.answers, strict=True):
        with _working(question, args):
            answers.append(clara.answer(question, examples.texts, args.top_k))
        if talk:
            _show_answer(out, examples, question, accepted, answers[-1])
    if args.png:
        title = f"{args.model}: {len(examples.questions)} questions to {len(examples.texts)} documents"
        report.save_picture(args.png, title, examples.questions, answers)
    right = [demo.is_right(a.text, accepted) for a, accepted in zip(answers, examples.answers, strict=True)]
    if args.json:
        _print_json(_demo_record(args, examples, answers, right))
        return
    tokens, slots = (sum(getattr(a.usage, name) for a in answers) for name in ("text_tokens", "slots"))
    out.print()
    out.print(f"{sum(right)} of {len(right)} answers right; {tokens:,} tokens of text were read as {slots:,} slots.")
    if args.png:
        out.print(f"Scores and times as a picture: {args.png}")


def _show_answer(out: Console, examples: demo.DemoSet, question: str, accepted: list[str], answer: Answer) -> None:
    right = demo.is_right(answer.text, accepted)
    out.print()
    out.print(Text(question, style="bold"))
    verdict = ("  right", "green") if right else (f"  expected {accepted[0]}", "red")
    out.print(Text.assemble("→ ", report.visible(answer.text), verdict))
    read = set(answer.selected)
    best = answer.ranking[: len(read) + 2]
    rows = [(r.score, examples.titles[r.index], examples.texts[r.index], r.index in read) for r in best]
    out.print(report.ranking(rows, out.width))
    _print_costs(out, answer, len(examples.texts))


def _print_costs(out: Console, answer: Answer, candidates: int) -> None:
    out.print(Text(report.usage_line(answer.usage, len(answer.selected), candidates), style="dim"))
    out.print(Text(report.timings_line(answer.timings), style="dim"))


def _info(args: argparse.Namespace) -> None:
    facts = _load(args).info()
    if args.json:
        _print_json(facts)
    else:
        _output().print(report.info_table(facts))


def _ask_record(args: argparse.Namespace, split: Sequence[passages.Passage], answer: Answer) -> dict[str, Any]:
    scores = {ranked.index: ranked.score for ranked in answer.ranking}
    return {
        "question": args.question,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "model": args.model,
        "passages": [
            {
                "rank": rank,
                "score": scores.get(index),
                "read": index in answer.selected,
                "citation": split[index].citation,
                **asdict(split[index]),
            }
            for rank, index in enumerate(list(scores) or answer.selected, start=1)
        ],
        "usage": asdict(answer.usage),
        "timings": asdict(answer.timings),
    }


def _demo_record(
    args: argparse.Namespace, examples: demo.DemoSet, answers: Sequence[Answer], right: Sequence[bool]
) -> dict[str, Any]:
    return {
        "model": args.model,
        "documents": len(examples.texts),
        "right": sum(right),
        "picture": str(args.png) if args.png else None,
        "questions": [
            {
                "question": question,
                "answer": answer.text,
                "accepted": accepted,
                "right": is_right,
                "ranking": [{"title": examples.titles[r.index], "score": r.score} for r in answer.ranking],
                "read": [examples.titles[index] for index in answer.selected],
                "usage": asdict(answer.usage),
                "timings": asdict(answer.timings),
            }
            for question, accepted, answer, is_right in zip(
                examples.questions, examples.answers, answers, right, strict=True
            )
        ],
    }


def _load(args: argparse.Namespace) -> Clara:
    """Load the model the arguments name, with a sign of life on a terminal (a download shows bars of its own)."""
    on_disk = args.model == DEFAULT_MODEL or Path(args.model).exists()
    with _working(f"Loading {args.model}", args) if on_disk else nullcontext():
        from huggingface_hub.utils import disable_progress_bars
        from transformers.utils import logging as transformers_logging

        from clara_model.inference.clara import Clara

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()  # of reading weights; downloads keep theirs
        if args.quiet or not sys.stderr.isatty():
            disable_progress_bars()
        keywords: dict[str, Any] = {name: getattr(args, name, None) for name in options.NAMES}
        return Clara.load(args.model, **keywords)


def _output() -> Console:
    """Standard output; lines are left whole, and a pipe or file gets tables that are wide enough."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)


def _progress(args: argparse.Namespace) -> Progress:
    """A bar for counted work, on a terminal only; gone when the work is done."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=args.quiet or not console.is_terminal)


def _working(what: str, args: argparse.Namespace) -> AbstractContextManager[object]:
    """A moving sign that work goes on, on a terminal only."""
    console = Console(stderr=True)
    return nullcontext() if args.quiet or not console.is_terminal else console.status(report.shortened(what, 60))


@contextmanager
def _notes(*, quiet: bool) -> Iterator[None]:
    """Show the library's warnings as lines on standard error, unless quiet."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("clara: %(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    logger = logging.getLogger("clara_model")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _print_json(record: object) -> None:
    sys.stdout.write(json.dumps(record, ensure_ascii=False, indent=2, default=str) + "\n")


def _replace_what_cannot_be_written() -> None:
    """Let a terminal that is not UTF-8 show question marks instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _at_least_one(word: str) -> int:
    try:
        value = int(word)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {word!r}")
    return value


def _sentence(error: BaseException) -> str:
    """The error's message on one line; of a system error, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())

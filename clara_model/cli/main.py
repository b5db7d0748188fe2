"""`clara`: ask questions about files, see the bundled model at work, and look into a checkpoint, from the command line.

Left out: training (see `trainers`).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from clara_model.checkpoint import bundled_models
from clara_model.cli import corpus, demo, serving, stores
from clara_model.console import tables
from clara_model.console.command import (
    EXIT_CODES,
    LEFT_OUT,
    Parser,
    add_load_options,
    at_least,
    at_least_one,
    likelihood,
    load,
    output,
    port,
    print_json,
    run,
    streamed,
    working,
)
from clara_model.documents import passages

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara
    from clara_model.validation import Documents

_MODEL_HELP = f"checkpoint: a folder, a bundled or a hub name (default: {bundled_models.DEFAULT_HELP})"
_ENCODINGS = ("exact", "float32", "bfloat16", "float16", "int8", "int4")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `clara`; default: the process's own.

    Returns:
        The exit code.
    """
    return run("clara", lambda: _parser().parse_args(argv), _act)


def _act(args: argparse.Namespace) -> int | None:
    if "model" in args and args.model is None:
        args.model = bundled_models.default_model()
    code: int | None = args.run(args)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="clara",
        description="Documents compressed to memory tokens, ranked and answered from the compressed form.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"clara {version('clara-integrations')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    quiet, loaded, model, writing, ranked, read = (Parser(add_help=False) for _ in range(6))
    quiet.add_argument("--quiet", action="store_true", help="only the result: no progress, no notes")
    add_load_options(loaded)
    model.add_argument("--model", metavar="NAME", help=_MODEL_HELP)
    writing.add_argument("--engine-url", metavar="URL",
                         help="a vLLM server that writes (its key: $CLARA_ENGINE_API_KEY)")  # fmt: skip
    writing.add_argument("--engine-timeout", type=float, metavar="SECONDS", help="that it may take for an answer (300)")
    ranked.add_argument("--ranking", choices=("latents", "hybrid"),
                        help="hybrid: the words that question and passage share beside their latents (default: the "
                             "model's)")  # fmt: skip
    read.add_argument("--expand", type=at_least(0), metavar="N",
                      help="of the passages that are read, the best N as text, the others as latents (default: the "
                           "model's)")  # fmt: skip
    answering = [loaded, quiet, model, ranked, read]
    server = "With CLARA_URL=http://127.0.0.1:8080 a running clara serve answers: from --docs, or from its store."
    _add_ask(
        commands.add_parser(
            "ask", parents=[*answering, writing], help="answer a question from files", epilog=f"{server} {EXIT_CODES}"
        )
    )
    show = commands.add_parser(
        "demo", parents=[quiet, model, ranked, read], help="the bundled model on the bundled documents"
    )
    _add_top_k(show, "passages an answer is read from")
    show.add_argument(
        "--png", type=Path, metavar="FILE", help="draw scores and times as a picture (needs the extra: plots)"
    )
    _add_json(show, "tables")
    show.set_defaults(run=demo.run)
    info = commands.add_parser("info", parents=[loaded, quiet], help="what a checkpoint is")
    info.add_argument("model", nargs="?", metavar="NAME", help=_MODEL_HELP)
    _add_json(info, "a table")
    info.set_defaults(run=_info)
    export = commands.add_parser("export", parents=[loaded, quiet], help="the generator as an ordinary model, for vLLM")
    export.add_argument("model", metavar="NAME", help="checkpoint: a folder, a bundled or a hub name")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="where it goes: new or empty")
    export.add_argument("--push", metavar="REPOSITORY", help="send it to this hub repository too")
    _add_json(export, "text")
    export.set_defaults(run=serving.export)
    _add_serve(
        commands.add_parser("serve", parents=[*answering, writing], help="an HTTP server that existing clients know")
    )
    chat = commands.add_parser(
        "chat", parents=[*answering, writing], help="questions one after the other, the model loaded once"
    )
    _add_documents(chat, "what to read, as for ask")
    _add_top_k(chat, "passages an answer is read from")
    _add_copy(chat)
    chat.set_defaults(run=serving.chat)
    _add_compress(
        commands.add_parser(
            "compress", parents=[loaded, quiet, model], help="files and folders into a store, once", epilog=EXIT_CODES
        )
    )
    search = commands.add_parser(
        "search", parents=[loaded, quiet, model, ranked], help="the passages of a store nearest to a question"
    )
    search.add_argument("question")
    search.add_argument("--store", required=True, metavar="FOLDER", help="a store that clara compress made")
    _add_top_k(search, "how many")
    _add_where(search)
    _add_json(search, "a table")
    search.set_defaults(run=stores.search)
    _add_store(
        commands.add_parser(
            "store",
            parents=[quiet],
            help="look after a store, or after the user's cache; verify exits with 3 where it finds damage",
        )
    )
    return parser


def _add_ask(ask: argparse.ArgumentParser) -> None:
    ask.add_argument("question")
    _add_documents(
        ask,
        "what to read: .txt, .md, .html, .pdf, .docx, .jsonl, .jsonl.gz, .parquet, folders, hf://datasets/OWNER/NAME, "
        "or - for standard input",
    )
    ask.add_argument(
        "--cold",
        choices=("compress", "text"),
        default="compress",
        help="passages of --docs that no earlier question compressed: compress them first (default), or answer from "
        "their text and compress them afterwards",
    )
    _add_where(ask)
    _add_top_k(ask, "passages the answer is read from")
    ask.add_argument(
        "--min-confidence",
        type=likelihood,
        default=0.0,
        metavar="P",
        help="an answer that the model finds less likely, from 0 to 1, is not given: the documents do not say "
        "(default: 0; an answer's confidence stands below it and in --json); such an answer is not streamed",
    )
    _add_copy(ask)
    ask.add_argument("--max-new-tokens", type=at_least_one, metavar="N", help="longest answer, in tokens")
    form = ask.add_mutually_exclusive_group()
    _add_json(form, "text")
    form.add_argument("--stream", action="store_true", help="print the answer piece by piece as it is written")
    ask.set_defaults(run=_ask)


def _add_serve(serve: argparse.ArgumentParser) -> None:
    """Its defaults are those of `clara_integrations.server.Settings`."""
    serve.add_argument("--store", metavar="FOLDER", help="documents that are kept, searched and answered from")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    serve.add_argument("--port", type=port, default=8080, help="port to listen at (default: 8080)")
    serve.add_argument("--api-key", metavar="KEY", help="that requests must bring (default: $CLARA_API_KEY)")
    serve.add_argument("--timeout", type=float, metavar="SECONDS", help="of one request (120)")
    for name, metavar, what in (
        ("--queue", "N", "requests under way at most (256)"),
        ("--max-body", "BYTES", "of one request (8388608)"),
        ("--max-documents", "N", "of one request (1000)"),
        ("--max-top-k", "K", "documents to answer from (64)"),
        ("--max-new-tokens", "N", "longest answer (1024)"),
    ):
        serve.add_argument(name, type=at_least_one, metavar=metavar, help=what)
    serve.set_defaults(run=serving.serve)


def _add_compress(compress: argparse.ArgumentParser) -> None:
    compress.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, hf://datasets/OWNER/NAME")
    _add_text_key(compress)
    compress.add_argument("--store", required=True, metavar="FOLDER", help="where the latents go")
    compress.add_argument("--metadata", action="append", default=[], metavar="NAME",
                          help="key or column that is kept beside a row's texts, for --where (repeatable)")  # fmt: skip
    compress.add_argument("--sync", action="store_true", help="remove documents that are not among the inputs any more")
    compress.add_argument("--encoding", choices=_ENCODINGS,
                          help="element type of a new store (default: exact, as the model makes them)")  # fmt: skip
    compress.add_argument(
        "--devices",
        metavar="NAMES",
        help="a process on each, e.g. cuda:0,cuda:1 or cpu,cpu; or how many (default: all GPUs, one process on a CPU)",
    )
    compress.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: actors on a Ray cluster (extra ray), as many as --devices says (default: this machine)",
    )
    compress.add_argument("--no-text", action="store_true", help="keep no text beside the latents of a new store")
    _add_json(compress, "text")
    compress.set_defaults(run=corpus.run)


def _add_store(store: argparse.ArgumentParser) -> None:
    store.add_argument("action", choices=("stats", "compact", "verify", "copy", "clear"))
    store.add_argument("store", nargs="?", metavar="FOLDER", help="default: the stores in the user's cache folder")
    store.add_argument("--to", metavar="FOLDER", help="copy: the other store, in whatever place or element type")
    store.add_argument("--encoding", choices=_ENCODINGS, help="copy: element type of the other store, if it is new")
    store.add_argument(
        "--mend", action="store_true", help="verify: drop what is damaged, so that compress makes it anew"
    )
    store.add_argument("--json", action="store_true", help="JSON instead of a table")
    store.set_defaults(run=stores.manage)


def _add_documents(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--docs", nargs="+", metavar="FILE_OR_FOLDER", help=what)
    _add_text_key(command)
    command.add_argument("--store", metavar="FOLDER", help="answer from a store (see compress) instead of --docs")
    command.add_argument("--no-store", action="store_true", help="keep no latents of --docs in the user's cache folder")


def _add_copy(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--copy", action="store_true", help="the answer is a stretch of the passages, word by word as it stands there"
    )


def _add_text_key(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--text-key", metavar="NAME", help="key or column with the text of a row (default: text, contents or docs)"
    )


def _add_where(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--where", action="append", default=[], metavar="NAME=VALUE", help="documents that may be found (repeatable)"
    )


def _add_top_k(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--top-k", type=at_least_one, metavar="K", help=f"{what} (default: the model's)")


def _add_json(command: argparse._ActionsContainer, what: str) -> None:
    command.add_argument("--json", action="store_true", help=f"one JSON object instead of {what}")


def _ask(args: argparse.Namespace) -> int:
    if not args.question.strip():
        raise ValueError("The question is blank.")
    server = os.environ.get(serving.SERVER)
    if server and args.store:
        raise ValueError(f"The server at {server} ({serving.SERVER}) has a store of its own; leave --store out.")
    if not server and (args.docs is None) == (args.store is None):
        raise ValueError("ask needs --docs FILE_OR_FOLDER or --store FOLDER, one of the two.")
    if args.where and args.docs:
        raise ValueError("--where needs --store: documents of --docs have no metadata.")
    if args.cold == "text" and (args.store or args.no_store):
        raise ValueError("--cold text needs --docs and the user's cache folder, where the next question finds latents.")
    if args.store:
        stores.ask(args)
        return 0
    args.left_out = []
    if server and args.docs is None:
        serving.ask(args, server, [])
        return 0
    documents = passages.read_documents(  # before the model: what is wrong with the files shows at once
        args.docs, text_key=args.text_key, unread=args.left_out
    )
    if server:
        serving.ask(args, server, documents)
        return LEFT_OUT if args.left_out else 0
    with stores.load_with_cache(args) as clara:
        if stores.store_of(clara) is None:
            args.cold = "compress"
        if note := bundled_models.caution(args.model):
            logging.getLogger(__name__).warning(note)
        _ask_documents(args, clara, documents)
        with working("Compressing passages for the next question", args):
            clara.flush()
    return LEFT_OUT if args.left_out else 0


def _ask_documents(args: argparse.Namespace, clara: Clara, documents: Sequence[passages.Document]) -> None:
    with working("Splitting documents", args):
        by_key = passages.passages_by_key(documents, clara)
    split, there = list(by_key.values()), stores.stored(clara, by_key)
    spent: float | None = None
    if args.cold == "text":
        candidates: Documents = [passage.text for passage in split]
    else:
        start = time.perf_counter()
        candidates, spent = stores.compress(args, clara, by_key), time.perf_counter() - start
    limits = stores.generation(args)
    out = output()
    if stores.streams(args):
        answer = streamed(clara.stream(args.question, candidates, args.top_k, **limits), args)
    else:
        with working("Answering", args):
            answer = clara.answer(args.question, candidates, args.top_k, **limits)
    if spent is not None:
        answer = replace(answer, timings=replace(answer.timings, compress=spent))
    scores = {ranked.index: ranked.score for ranked in answer.ranking}
    if args.json:
        order = list(scores) or answer.selected
        found = [
            {
                "rank": rank,
                "score": scores.get(index),
                "read": index in answer.selected,
                "citation": split[index].citation,
                **asdict(split[index]),
            }
            for rank, index in enumerate(order, start=1)
        ]
        left_out = [one.reason for one in args.left_out]
        print_json(stores.record(args, answer, found, answer.timings, left_out=left_out, stored=there))
        return
    stores.print_answer(args, out, answer)
    if args.quiet:
        out.print(Text("Sources: " + "; ".join(tables.visible(split[index].citation) for index in answer.selected)))
        return
    rows = [(scores.get(index), split[index].citation, split[index].text, True) for index in answer.selected]
    out.print()
    out.print(tables.ranking(rows, out.width))
    out.print(tables.support(answer, [one.text for one in split], [one.citation for one in split]))
    out.print()
    out.print(tables.costs(answer, len(split), compressed=there < len(split)))
    if answer.answered_from == "text":
        later = f"answered from text: {len(split) - there} passages are compressed now for the next question"
        out.print(Text(later, style="dim"))
    elif there:
        rest = "nothing was compressed" if there == len(split) else f"{len(split) - there} were compressed"
        out.print(Text(f"{there} of {len(split)} passages were kept from an earlier question: {rest}", style="dim"))


def _info(args: argparse.Namespace) -> None:
    facts = load(args).info()
    if args.json:
        print_json(facts)
    else:
        output().print(tables.info_table(facts))


if __name__ == "__main__":
    sys.exit(main())

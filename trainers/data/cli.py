"""`clara-data`: check data files, write stage-1 data with a chat model, convert official files, fetch candidates.

Results go to standard output; progress, notes and errors to standard error. Exit codes: 0 done, 1 the data is bad or
nothing came out, 2 something the user can put right, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.text import Text

from clara_model.console import command
from clara_model.console.command import output, print_json, show_error
from clara_model.console.tables import info_table
from clara_model.errors import ClaraError
from trainers.data import report as data_report
from trainers.data import retrieve
from trainers.data.check import StageCheck, check_files
from trainers.data.convert import FORMATS, NO_NEGATIVES, SETTINGS, SPLITS, ConvertConfig, Converter
from trainers.data.jsonl import check_output, write_rows
from trainers.data.negatives import METHODS
from trainers.data.rows import find_files
from trainers.data.synthesis import cli as synthesis_cli
from trainers.data.token_counts import DEFAULT_MODEL, TokenCounter, token_counter, tokens_of

BAD_DATA = 1
INTERRUPTED = "clara-data: interrupted; clara-data synthesize goes on from here when it is run again"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return command.run("clara-data", lambda: _parser().parse_args(argv), lambda args: int(args.run(args)), INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(prog="clara-data", description="Make and check the data that clara-train learns from.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_check(commands.add_parser("check", help="what is in data files, and every bad line"))
    synthesis_cli.add_arguments(commands.add_parser("synthesize", help="stage-1 data from raw text by a chat model"))
    _add_convert(commands.add_parser("convert", help="official question answering files to data for stages 2 and 3"))
    _add_retrieve(commands.add_parser("retrieve", help="candidates from a store of latents for rows without documents"))
    return parser


def _add_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help=".jsonl, .jsonl.gz, or a folder of them")
    add("--model", "--tokenizer", metavar="NAME", help="counts tokens: a checkpoint, base model or tokenizer "
        "(default: clara-tiny's where it is there, else words)")  # fmt: skip
    add("--doc-max-length", type=int, metavar="N", help="document tokens that are read (default: the model's, or 256)")
    add("--stage", metavar="STAGE", help="hold every row against a stage of clara-train: what it refuses, and whose "
        "questions it shortens")  # fmt: skip
    add("--max_len", type=int, default=0, metavar="N", help="clara-train's (default: the stage's)")
    add("--generation_top_k", type=int, default=0, metavar="N", help="clara-train's (default: the stage's)")
    add("--all", action="store_true", help="show every repeated row and remark, not only the first few")
    add("--json", action="store_true", help="one JSON object instead of tables")
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    counter = token_counter(args.model)
    limit = counter.doc_max_length if args.doc_max_length is None else args.doc_max_length
    if args.stage is None and (args.max_len or args.generation_top_k):
        raise ClaraError("--max_len and --generation_top_k say something about a stage; pass --stage too")
    reports = check_files(args.files, counter, limit, _stage(args, counter, limit) if args.stage else None)
    if args.json:
        files = [report.to_dict() for report in reports]
        print_json({"lengths_in": counter.unit, "doc_max_length": limit, "files": files})
    else:
        output().print(data_report.check_report(reports, counter.unit, limit, show_all=args.all))
    return BAD_DATA if any(report.bad for report in reports) else 0


def _stage(args: argparse.Namespace, counter: TokenCounter, limit: int) -> StageCheck:
    """Lengths are looked at where there is a tokenizer to count them."""
    name = args.model or ("" if counter.unit == "words" else DEFAULT_MODEL)
    tokens = tokens_of(name, limit) if name else None
    return StageCheck(args.stage, tokens, max_len=args.max_len, documents=args.generation_top_k)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="IN", help="official files, plain or gzipped")
    add("--format", dest="form", required=True, choices=tuple(FORMATS), help="whose official format they have")
    add("--out", required=True, type=Path, metavar="FILE", help="where the rows go, .jsonl or .jsonl.gz")
    add("--split", choices=SPLITS, default="train", help="train: gold_answer, to learn; eval: all accepted answers")
    add("--setting", choices=SETTINGS, default="oracle", help="oracle: gold documents are always candidates; normal: "
        "what the search finds (default: oracle)")  # fmt: skip
    add("--negatives", choices=(*METHODS, NO_NEGATIVES), default="bm25", help="fill candidates up (default: bm25)")
    add("--candidates", type=int, default=20, metavar="N", help="documents per row (default: 20, as in the paper)")
    add("--corpus", nargs="+", type=Path, default=[], metavar="FILE", help="more passages: TSV 'id, text, title' or "
        ".jsonl with text and title; needed for nq")  # fmt: skip
    add("--embedding-model", metavar="NAME", help="sentence-transformers model, or a CLaRa checkpoint as clara:NAME")
    add("--store", metavar="FOLDER", help="with clara:NAME: keep the passages' latents here, and use those there")
    add("--seed", type=int, default=0, metavar="N", help="random seed of the candidates' order (default: 0)")
    add("--json", action="store_true", help="print the summary as one JSON object")
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> int:
    config = ConvertConfig(**{one.name: getattr(args, one.name) for one in fields(ConvertConfig)})
    check_output(args.out)
    converter = Converter(config, args.files, args.corpus)
    rows = write_rows(args.out, converter.rows())
    facts = {**converter.counts, "passages in the pool": len(converter.pool), "left out": dict(converter.left_out)}
    print_json({"out": str(args.out), **facts}) if args.json else output().print(info_table(facts))
    if not rows:
        show_error("clara-data", f"no row came out of {converter.counts['questions read']} questions")
        return BAD_DATA
    if not args.json:
        output().print(Text(f"{rows:,} rows in {args.out}"))
    return 0


def _add_retrieve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="rows with question and answer, .jsonl, .jsonl.gz, or a folder of "
        "them; documents that a row brings stay its first candidates")  # fmt: skip
    add("--store", required=True, metavar="FOLDER", help="the passages, as `clara compress --store` has kept them")
    add("--model", required=True, metavar="NAME", help="the checkpoint whose latents they are")
    add("--out", required=True, type=Path, metavar="FILE", help="where the rows go, .jsonl or .jsonl.gz")
    add("--candidates", type=int, default=20, metavar="N", help="documents per row (default: 20)")
    add("--by", choices=retrieve.BY, default="latents", help="latents: the checkpoint searches; bm25: words, for a "
        "checkpoint before stage 3, which cannot search (default: latents)")  # fmt: skip
    add("--json", action="store_true", help="print the summary as one JSON object")
    parser.set_defaults(run=_retrieve)


def _retrieve(args: argparse.Namespace) -> int:
    from clara_model.inference.clara import Clara
    from clara_model.store.opening import existing_store

    check_output(args.out)
    files = [path for name in args.files for path in find_files(name)]
    with Clara.load(args.model, store=existing_store(args.store), cache_bytes=0) as clara:
        nearest = retrieve.by_latents(clara) if args.by == "latents" else retrieve.by_bm25(clara)
        retriever = retrieve.Retriever(nearest, args.candidates)
        rows = write_rows(args.out, retriever.rows(files))
    facts = {**retriever.counts, "rows written": rows}
    print_json({"out": str(args.out), **facts}) if args.json else output().print(info_table(facts))
    if not rows:
        show_error("clara-data", "no row was read")
    return 0 if rows else BAD_DATA


if __name__ == "__main__":
    sys.exit(main())

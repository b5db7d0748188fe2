"""``clara-eval``: measure a checkpoint beside closed book, text RAG, BM25 and others, and draw what was measured.

    clara-eval --dataset hotpotqa,nq --model CHECKPOINT          # tables, and a folder of records
    clara-eval --dataset mine.jsonl --docs letters/ --model ..   # {"question", "answer"} a line: would I lose anything?
    clara-eval paper --rows all                                  # the paper's table, from published weights
    clara-eval report FOLDER                                     # a page with pictures of all that is in the folder

Exit codes: 0 done, 1 a question failed, 2 something the user can put right, said in one sentence.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import TaskID
from rich.text import Text

from clara_model.console import command
from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from accelerate import PartialState

    from clara_model.inference.clara import Clara

FAILED = 1
OUT = "runs/eval"
WIDTH_OF_A_FILE = 220
"""Columns of a table that goes to a pipe or file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``clara-eval``; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["paper"]:
        from trainers.evaluation.systems import paper

        return command.run("clara-eval", lambda: paper.arguments(words[1:]), paper.run)
    if words[:1] == ["report"]:
        return command.run("clara-eval", lambda: report_parser().parse_args(words[1:]), _report)
    return command.run("clara-eval", lambda: parser().parse_args(words), _measure)


def parser() -> argparse.ArgumentParser:
    """Of a measurement."""
    made = command.Parser(
        prog="clara-eval",
        description="Measure a checkpoint beside its baselines: same base model, documents, prompt and bounds.",
        epilog="`clara-eval report FOLDER` draws what was measured, `clara-eval paper` makes the paper's table; "
        "each has a --help of its own.",
    )
    _what(made.add_argument_group("what is measured"))
    _how(made.add_argument_group("how"))
    command.add_load_options(made.add_argument_group("how the checkpoint is loaded"))
    return made


def _what(group: Any) -> None:
    add = group.add_argument
    add("--dataset", required=True, help="names or files, with commas, e.g. hotpotqa,musique,2wiki,nq")
    add("--data", metavar="FOLDER", help="where names are looked for (default: ../shared/data/eval)")
    add("--model", required=True, help="checkpoint: a folder, bundled or hub name")
    add("--setting", choices=("normal", "oracle"), default="normal", help="oracle: a gold document is among what is "
        "offered (default: %(default)s)")  # fmt: skip
    add("--stage", choices=("stage1", "stage1_2", "stage2", "paraphrase"), help="stage2: the checkpoint "
        "ranks; stage1, stage1_2: documents are read as retrieved; paraphrase: texts are told again (default: stage2 "
        "if it can rank)")  # fmt: skip
    add("--systems", type=_listed, default=(), help="with commas: clara, the controls wrong and shuffled, each with :N "
        "as --expand says, best, closed, text, first, bm25, bi:MODEL, late:MODEL, cross:MODEL, llmlingua[:MODEL], "
        "autocompressor, cocom, pcc, xrag, each [:MODEL] (default: clara, wrong, shuffled, closed, text, "
        "first, bm25)")  # fmt: skip
    add("--expand", type=_numbers, default=(), metavar="N,N", help="also clara:N for each: the best N passages as "
        "text, the others as latents; with wrong:N where wrong is measured")  # fmt: skip
    add("--ranking", choices=("latents", "hybrid"), help="what the checkpoint ranks by (default: what it says itself)")
    add("--copy", action="store_true", help="the checkpoint's answers are stretches of the passages that it reads")
    add("--text_reader", metavar="NAME", help="checkpoint on the same base, trained to read text")
    add("--docs", nargs="+", default=(), metavar="FILE_OR_FOLDER", help="your own documents: .txt, .md, .jsonl; "
        "questions then need no docs")  # fmt: skip
    add("--store", metavar="FOLDER", help="where latents are kept, or are already; with questions without docs, what "
        "they are asked about (default with --docs: below --out)")  # fmt: skip


def _how(group: Any) -> None:
    add = group.add_argument
    add("--generation_top_k", dest="top_k", type=int, metavar="K", help="passages read (default: the checkpoint's)")
    add("--max_samples", type=int, default=0, metavar="N", help="questions at most; 0: all")
    add("--max_new_tokens", type=int, default=64, metavar="N", help="longest answer (default: 64)")
    add("--prompt_tokens", type=int, metavar="N", help="longest prompt of any system (default: what the base reads)")
    add("--batch_size", type=int, default=16, metavar="N", help="questions at a time; 1 for the time of a single one "
        "(default: %(default)s)")  # fmt: skip
    add("--first_answer", action="store_true", help="compare with the first accepted answer, as published")
    add("--known_only", action="store_true", help="leave questions without a gold document out of recall, as the "
        "published training log does; by default they count 0, as in the published evaluation")  # fmt: skip
    add("--spacy_model", metavar="NAME", help="finds the names of --stage paraphrase (default: en_core_web_sm if it is "
        "installed)")  # fmt: skip
    add("--out", default=OUT, metavar="FOLDER", help="for records and figures (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON, not tables")


def report_parser() -> argparse.ArgumentParser:
    """Of a report."""
    made = command.Parser(prog="clara-eval report", description="A page with pictures of what was measured.")
    made.add_argument("folder", type=Path, help="an --out of clara-eval")
    return made


def _listed(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _listed(words))


def _measure(args: argparse.Namespace) -> int:
    from trainers.processes import of_evaluation

    processes = of_evaluation()
    try:
        found = summaries(args, processes)
    finally:
        processes.destroy_process_group()
    if not processes.is_main_process:
        return 0
    _show(found, as_json=args.json)
    return FAILED if any(system["failed"] for one in found for system in one["systems"].values()) else 0


def summaries(args: argparse.Namespace, processes: PartialState) -> list[dict[str, Any]]:
    """Measure each data set in turn; on the first process, what was found."""
    from trainers.evaluation import report
    from trainers.evaluation.comparison import Comparison, Settings, check_names, folder_of

    check_names(args.systems)
    asked = {one.name: getattr(args, one.name) for one in fields(Settings)}
    settings = [Settings(**{**asked, "dataset": name, "docs": tuple(args.docs)}) for name in _listed(args.dataset)]
    if not settings:
        raise ClaraError("--dataset names no data set")
    below_results = str(Path(args.out) / "latents") if args.docs else None
    clara = _load(args.model, args, processes, args.store or below_results)
    reader = _load(args.text_reader, args, processes) if args.text_reader else None
    found = []
    for one in settings:
        comparison = Comparison(clara, one, Path(), reader, processes)
        comparison.folder = folder_of(args.out, clara.name, one, comparison.stage)
        with _progress(processes) as comparison.progress:
            summary = comparison.run()
        if summary is not None:
            table = report.markdown(summary) + report.pairs_markdown(summary)
            (comparison.folder / "table.md").write_text(table, encoding="utf-8")
            (comparison.folder / "table.csv").write_text(report.as_csv(summary), encoding="utf-8")
            found.append(summary)
    return found


def _load(name: str, args: argparse.Namespace, processes: PartialState, store: str | None = None) -> Clara:
    alone = processes.num_processes == 1 or processes.device.type == "cpu"  # else each has a device of its own
    device = args.device or (None if alone else str(processes.device))
    own = {"model": name, "device": device, "quiet": not processes.is_main_process, "expand": None}
    return command.load(argparse.Namespace(**{**vars(args), **own}), store)


def _report(args: argparse.Namespace) -> int:
    from trainers.evaluation import report

    for file in report.write(args.folder):
        command.output().print(Text(str(file)))
    return 0


@contextmanager
def _progress(processes: PartialState) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each system, on a terminal, of the first process's part."""
    with command.progress(not processes.is_main_process) as bar:
        tasks: dict[str, TaskID] = {}

        def show(system: str, done: int, of: int) -> None:
            if system not in tasks:
                tasks[system] = bar.add_task(system, total=of)
            bar.update(tasks[system], completed=done)

        yield show


def _show(summaries: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    from trainers.evaluation import report

    if as_json:
        command.print_json(summaries)
    else:
        command.output(WIDTH_OF_A_FILE).print(*(table for one in summaries for table in report.terminal(one)))


if __name__ == "__main__":
    sys.exit(main())

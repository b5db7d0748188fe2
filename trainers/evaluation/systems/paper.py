"""``clara-eval paper``: the paper's table of compressors, from published weights, on the questions of four data sets.

    clara-eval paper --rows all                                   # wants a GPU, the hub, and the data sets' files
    clara-eval paper --rows clara,text,cocom --max_samples 200    # some rows; further options are those of clara-eval

Every row reads the same passages, as they were retrieved. Records and figures of each run lie below ``--out``, and a
run that was stopped goes on; ``paper.md`` there is the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from clara_model.console import command
from clara_model.errors import ClaraError
from trainers.evaluation.records import markdown_table
from trainers.evaluation.systems import SYSTEMS

DATASETS, SETTINGS = "nq,hotpotqa,musique,2wiki", "normal,oracle"
PISCO = "pisco"
"""A checkpoint of its own, which is loaded as ours are."""
ROWS = ("clara", PISCO, *SYSTEMS, "llmlingua", "text", "closed")
SCORES = ("f1", "em")
Figures = dict[str, dict[str, Any]]
"""By row and column."""


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Of the command; what it does not know is ``further``, for ``clara-eval``."""
    made = command.Parser(
        prog="clara-eval paper",
        description="The paper's table of compressors, from published weights.",
        epilog="Further options are those of clara-eval (--max_samples, --data, --device, --dtype, --base_model ..).",
    )
    made.add_argument("--rows", default="all", help=f"with commas: {', '.join(ROWS)}, each with :FOLDER or :NAME for "
                      "other weights (default: all)")  # fmt: skip
    made.add_argument("--model", default="apple/CLaRa-7B-Instruct", help="of the row clara (default: %(default)s)")
    made.add_argument("--subfolder", default=None, help="of it (default: compression-16 of a published one)")
    made.add_argument("--pisco", default="naver/pisco-mistral", help="weights of the row pisco (default: %(default)s)")
    made.add_argument("--datasets", default=DATASETS, help="names or files, with commas (default: %(default)s)")
    made.add_argument("--settings", default=SETTINGS, help="normal, oracle or both (default: both)")
    made.add_argument("--out", default="runs/paper", metavar="FOLDER", help="for all of it (default: %(default)s)")
    args, args.further = made.parse_known_args(words)
    return args


def run(args: argparse.Namespace) -> int:
    """Measure every row that is asked for, and print and keep the table. Raises `ClaraError`: an unknown row."""
    from trainers.evaluation.comparison import label

    rows = ROWS if args.rows == "all" else tuple(filter(None, map(str.strip, args.rows.split(","))))
    unknown = [row for row in rows if row.partition(":")[0] not in ROWS]
    if unknown or not rows:
        raise ClaraError(f"unknown row {', '.join(unknown) or args.rows!r}; there are {', '.join(ROWS)}, and all")
    published = args.model.startswith("apple/")
    subfolder = args.subfolder or ("compression-16" if published else None)
    ours = [row for row in rows if row != PISCO]
    labels = {label(row): row for row in ours}
    found: Figures = {row: {} for row in rows}
    for setting in filter(None, map(str.strip, args.settings.split(","))):
        same = ["--dataset", args.datasets, "--setting", setting, "--out", args.out, *args.further]
        if ours:
            named = ["--subfolder", subfolder] if subfolder else []
            systems = ["--systems", ",".join(ours)]
            _add(found, setting, _measured(["--model", args.model, *named, *systems, *same]), labels)
        if PISCO in rows:
            summaries = _measured(["--model", args.pisco, "--systems", "clara", *same])
            _add(found, setting, summaries, {"clara": PISCO})
    grid = _grid(found)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    (Path(args.out) / "paper.md").write_text(markdown_table(grid), encoding="utf-8")
    table = Table(*grid[0], box=None)
    for cells in grid[1:]:
        table.add_row(*cells)
    command.output(220).print(table)
    return 0


def _measured(words: list[str]) -> list[dict[str, Any]]:
    from trainers.evaluation import cli
    from trainers.processes import of_evaluation

    return cli.summaries(cli.parser().parse_args(words), of_evaluation())


def _add(found: Figures, setting: str, summaries: list[dict[str, Any]], names: dict[str, str]) -> None:
    """``names`` tells the row of a recorded system."""
    for summary in summaries:
        column = f"{Path(summary['asked']['dataset']).name.removesuffix('.jsonl')} {setting}"
        for system, figures in summary["systems"].items():
            found[names[system]][column] = figures["metrics"]


def _grid(found: Figures) -> list[list[str]]:
    """A heading, and a line for each row: F1 and EM of each data set, in percent, as in the paper."""
    columns = list(dict.fromkeys(column for figures in found.values() for column in figures))
    heading = ["system", *(f"{column} {score.upper()}" for column in columns for score in SCORES)]
    lines = [heading]
    for row, figures in found.items():
        cells = [figures[column][score]["value"] if column in figures else None
                 for column in columns for score in SCORES]  # fmt: skip
        lines.append([row, *("" if cell is None else f"{100 * cell:.1f}" for cell in cells)])
    return lines

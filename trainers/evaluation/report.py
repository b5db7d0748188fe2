"""``clara-eval report FOLDER``: one page that needs nothing beside it, from all evaluations in a folder, and its PNGs.

The page shows the tables, the pictures, and the worst questions with what was ranked and answered. Everything from
documents and answers is shown as text.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from clara_model.errors import ClaraError
from trainers.evaluation import pictures, tables
from trainers.evaluation.comparison import SUMMARY
from trainers.evaluation.records import Record, Records, read_records
from trainers.evaluation.summary import OURS, TEXT

Summary = Mapping[str, Any]
PAGE = "report.html"
WORST = 8
"""Questions that are shown of each evaluation."""
PICTURES = {
    "rates": pictures.rates,
    "ranking": pictures.ranking,
    "answers": pictures.answers,
    "places": pictures.places,
    "costs": pictures.costs,
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } img { max-width: 100% }
table { border-collapse: collapse; font-size: .86rem; margin: .6rem 0 } caption { text-align: left; font-weight: 600 }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
li { margin: .2rem 0 } .wide { overflow-x: auto } .bad { color: #a33 } .good { color: #276b3c }
details { margin: .5rem 0; border-left: 3px solid #ddd; padding-left: .8rem } summary { cursor: pointer }
"""


def summaries_in(folder: Path) -> dict[Path, Summary]:
    """The figures of every evaluation in a folder, by where they lie.

    Raises:
        ClaraError: there are none.
    """
    files = sorted(folder.glob(f"**/{SUMMARY}")) if folder.is_dir() else []
    if not files:
        raise ClaraError(f"{folder} holds no evaluation; run clara-eval with --out {folder} first")
    return {file.parent: json.loads(file.read_text(encoding="utf-8")) for file in files}


def write(folder: Path) -> list[Path]:
    """Draw the pictures and write the page; every file that was written, the page first.

    Raises:
        ClaraError: no evaluations, or matplotlib is not installed.
    """
    from clara_model.console.tables import check_pictures

    check_pictures()
    found = summaries_in(folder)
    some = list(found.values())
    drawn = [folder / f"{name}.png" for name, draw in PICTURES.items() if draw(some, folder / f"{name}.png")]
    shown = [base64.b64encode(file.read_bytes()).decode("ascii") for file in drawn]
    parts = [
        f'<p><img alt="{file.stem}" src="data:image/png;base64,{data}"></p>'
        for file, data in zip(drawn, shown, strict=True)
    ]
    body = "\n".join([*parts, *(_evaluation(place, one) for place, one in found.items())])
    page = folder / PAGE
    page.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>clara-eval</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>What was measured</h1>\n{body}\n</body></html>\n",
        encoding="utf-8",
    )
    return [page, *drawn]


def worst(records: Mapping[str, Sequence[Record]], count: int = WORST) -> list[tuple[float, Record, Record | None]]:
    """The questions that ``clara`` did not get whole: those first on which it lost most against ``text``.

    Returns:
        what was lost (F1, or ROUGE-L of a paraphrase; against 1 where there is no ``text``), the record of ``clara``,
        and that of ``text`` where there is one.
    """
    others = {one.number: one for one in records.get(TEXT, ()) if not one.failed}
    found = []
    for one in records.get(OURS, ()):
        name = "f1" if "f1" in one.scores else "rougeL"
        if not one.failed and one.scores[name] < 1:
            other = others.get(one.number)
            lost = (1.0 if other is None else other.scores[name]) - one.scores[name]
            found.append((lost, one.scores[name], one, other))
    found.sort(key=lambda row: (-row[0], row[1], row[2].number))
    return [(lost, one, other) for lost, _, one, other in found[:count]]


def _evaluation(place: Path, summary: Summary) -> str:
    records = {}
    for name in summary["systems"]:
        file = Records(place, name).path
        if file.exists():
            records[name] = list(read_records(file))
    pairs, bad = tables.pairs_grid(summary), "".join(_question(*one) for one in worst(records))
    facts = ", ".join(f"{name} {value}" for name, value in summary["environment"].items())
    failures = [
        f'<p class="bad">{escape(name)}: {escape(one.source or str(one.number))}: {escape(one.error or "")}</p>'
        for name, some in records.items()
        for one in some
        if one.failed
    ]
    return "\n".join(
        [
            f"<h2>{escape(tables.caption(summary))}</h2>",
            _table(tables.grid(summary)),
            "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in tables.notes(summary)) + "</ul>",
            *failures,
            f"<p>{escape(facts)}</p>",
            f"<h3>Any two systems, paired by question</h3>{_table(pairs)}" if pairs else "",
            f"<h3>Worst questions, those first on which latents lost most against text</h3>{bad}" if bad else "",
        ]
    )


def _table(found: tables.Grid) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = row(found[0], "th") + "".join(row(cells, "td") for cells in found[1:])
    return f'<div class="wide"><table>{body}</table></div>'


def _question(lost: float, ours: Record, text: Record | None) -> str:
    asked = ours.question or (ours.shown[0] if ours.shown else "")
    lines = [
        f"<li>accepted: {escape(' / '.join(ours.references)[:300])}</li>",
        f'<li class="bad">from latents: {escape(ours.answer or "(nothing)")}</li>',
    ]
    if text is not None and not text.failed:
        lines.append(f'<li class="good">from the same passages as text: {escape(text.answer or "(nothing)")}</li>')
    read = []
    for place, (document, passage) in enumerate(zip(ours.read, ours.shown, strict=False), start=1):
        gold = " (gold)" if document in ours.positives else ""
        read.append(f"<li>{place}. document {document + 1}{gold}: {escape(passage)}</li>")
    listed = f"<li>read, best first:<ul>{''.join(read)}</ul></li>" if read else ""
    head = f"{escape(asked[:300])} (lost {lost:.2f}; {escape(ours.source)})"
    return f"<details><summary>{head}</summary><ul>{''.join(lines)}{listed}</ul></details>"

"""What an evaluation's figures look like: tables for a terminal, as Markdown and CSV, and the page of a report.

``clara-eval report FOLDER`` writes one page that needs nothing beside it, from all evaluations in a folder, and its
PNGs. Everything from documents and answers is shown as text.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from clara_model.errors import ClaraError
from trainers.evaluation import pictures
from trainers.evaluation.comparison import SUMMARY
from trainers.evaluation.records import Record, Records, markdown_table, read_records
from trainers.evaluation.summary import COMPARED, CONTROLS, OURS, TEXT, TOKENS, kind_of

Summary = Mapping[str, Any]
Grid = list[list[str]]
"""Titles, then rows."""

WITH_INTERVAL = ("em", "f1", "rouge1", "rougeL")
TITLES = {
    "em": "EM",
    "f1": "F1",
    "cover_em": "cover-EM",
    "recall@1": "R@1",
    "recall@3": "R@3",
    "recall@5": "R@5",
    "precision@5": "P@5",
    "ndcg@10": "nDCG@10",
    "mrr": "MRR",
    "answer@1": "answer@1",
    "answer@5": "answer@5",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
    "entities": "names kept",
}
"""Figures that a table shows, in this order; the CSV holds all."""
ABSENT = "-"


def caption(summary: Summary) -> str:
    """What was measured, in one line."""
    asked = summary["asked"]
    offered = "oracle" if asked["setting"] == "oracle" else "normal"
    return (
        f"{Path(asked['model']).name} on {Path(asked['dataset']).name.removesuffix('.jsonl')} ({offered}, "
        f"{asked['stage']}): {summary['questions']} questions, best {asked['top_k']} passages, rate {asked['rate']}"
    )


def notes(summary: Summary) -> list[str]:
    """What else a reader has to know: failures, what did not fit, the break-even, exact match by place."""
    found = []
    for name, system in summary["systems"].items():
        if system["failed"]:
            listed = ", ".join(system["failed"][:3]) + (", .." if len(system["failed"]) > 3 else "")
            found.append(f"{name}: {len(system['failed'])} questions FAILED and count in no figure ({listed})")
        if system["left_out"]:
            found.append(f"{name}: {system['left_out']} passages did not fit the prompt and were left out")
    found += _break_even(summary)
    places = summary["systems"].get("clara", {}).get("by_place")
    if places:
        listed = ", ".join(f"{place} {one['em']:.3f} ({one['questions']})" for place, one in places.items())
        found.append(f"clara: EM by the place of the gold document among those that were read: {listed}")
    return found


def _break_even(summary: Summary) -> Iterator[str]:
    even = summary["break_even"]
    if even is None:
        return
    once, questions = even["once"], even["questions"]
    if once is None:
        then = "the documents were compressed before"
    else:
        then = f"compressing {_seconds(once)}"
        if questions is None:
            then += ": text is quicker however many questions are asked"
        elif questions <= 1:
            then += ", which the first question earns back"
        else:
            then += f", which is earned back after {questions:.1f} questions to the same documents"
    yield f"an answer from latents {_seconds(even['warm'])}, the same passages as text {_seconds(even['text'])}; {then}"


def grid(summary: Summary) -> Grid:
    """A row for each system."""
    columns = _columns(summary)
    rows = [[cell(name, system) for _, cell in columns] for name, system in summary["systems"].items()]
    return [[title for title, _ in columns], *rows]


def pairs_grid(summary: Summary) -> Grid:
    """A row for each rival but the last, against those after it; nothing to show of fewer than three."""
    pairs, names = summary.get("pairs") or [], [name for name in summary["systems"] if kind_of(name) not in CONTROLS]
    if len(names) < 3 or not pairs:
        return []
    cells = {(pair["system"], pair["other"]): _difference(pair) for pair in pairs}
    rows = [[one, *(cells.get((one, other), "") for other in names[1:])] for one in names[:-1]]
    return [[f"{TITLES[pairs[0]['score']]}, row - column (p)", *names[1:]], *rows]


def _columns(summary: Summary) -> list[tuple[str, Any]]:
    systems = summary["systems"].values()
    shown = [name for name in TITLES if any(name in one["metrics"] for one in systems)]
    compared = next((name for name in COMPARED if name in shown), COMPARED[0])

    def against(found: Mapping[str, Any] | None) -> str:
        return _difference(found[compared]) if found and compared in found else ABSENT

    columns: list[tuple[str, Any]] = [("system", lambda name, _: name)]
    for metric in shown:
        columns.append((TITLES[metric], lambda _, one, m=metric: _figure(one["metrics"].get(m), m in WITH_INTERVAL)))
        if metric == "f1" and any(one.get("read_from_memory") for one in systems):
            columns.append(("read from memory", lambda _, one: _figure(one.get("read_from_memory"), True)))
    if any(one["retained_f1"] for one in systems):
        columns.append(("F1 retained", lambda _, one: _figure(one["retained_f1"], True)))
    if compared in shown and any(one["against_clara"] for one in systems):
        columns.append((f"{TITLES[compared]} against clara (p)", lambda _, one: against(one["against_clara"])))
    if any(one.get("pairs_per_second") for one in systems):
        columns.append(("pairs/s", lambda _, one: _rounded(one.get("pairs_per_second"))))
    columns += [
        ("prompt tokens", lambda _, one: f"{one['prompt_tokens']:.0f}"),
        ("s/question", lambda _, one: _seconds(sum(one["seconds"].values()), unit=False)),
    ]
    if any(one["failed"] for one in systems):
        columns.append(("failed", lambda _, one: str(len(one["failed"]))))
    return columns


def _figure(found: Mapping[str, Any] | None, with_interval: bool) -> str:
    if found is None:
        return ABSENT
    if not with_interval or found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.2f}, {found['high']:.2f}]"


def _rounded(value: float | None) -> str:
    """A count to two digits: how quick a ranker is differs from run to run."""
    return ABSENT if value is None else f"{float(f'{value:.2g}'):,.0f}"


def _difference(found: Mapping[str, Any]) -> str:
    value, p = found["value"], found["p"]
    return f"{value:+.3f} ({'<0.001' if p < 0.001 else f'{p:.3f}'})"


def _seconds(value: float, unit: bool = True) -> str:
    return f"{value:.3f}" + (" s" if unit else "")


def terminal(summary: Summary) -> list[Table]:
    """For a terminal: the table, and that of any two systems if it adds something."""
    found = [(caption(summary), "\n".join(notes(summary)), grid(summary))]
    if pairs := pairs_grid(summary):
        found.append(("any two systems, paired by question", "", pairs))
    tables = []
    for title, below, (titles, *rows) in found:
        table = Table(title=title, title_justify="left", caption=below or None, caption_justify="left")
        for number, name in enumerate(titles):
            table.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        tables.append(table)
    return tables


def markdown(summary: Summary) -> str:
    """As Markdown, with its caption and notes."""
    facts = summary["environment"]
    where = ", ".join(f"{name} {value}" if name not in _PLAIN else value for name, value in facts.items())
    intervals = f"95 % intervals by bootstrap over {summary['clusters']} groups of documents. {where}."
    listed = "".join(f"* {note}\n" for note in [*notes(summary), intervals])
    return f"**{caption(summary)}**\n\n{markdown_table(grid(summary))}\n{listed}"


def pairs_markdown(summary: Summary) -> str:
    """Any two systems as Markdown; nothing where there is nothing to add to `markdown`."""
    pairs = pairs_grid(summary)
    return f"\n{markdown_table(pairs)}" if pairs else ""


_PLAIN = ("date", "processor", "device", "system")


def as_csv(summary: Summary) -> str:
    """Every figure of every system, a line each."""
    asked, text = summary["asked"], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "dataset", "setting", "stage", "system", "figure", "value", "low", "high"])
    for name, system in summary["systems"].items():
        for figure, found in _figures(system):
            writer.writerow([asked["model"], asked["dataset"], asked["setting"], asked["stage"], name, figure, *found])
    for pair in summary.get("pairs") or []:
        where = [asked["model"], asked["dataset"], asked["setting"], asked["stage"], pair["system"]]
        against = f"{pair['score']} against {pair['other']}"
        writer.writerow([*where, against, pair["value"], pair["low"], pair["high"]])
        writer.writerow([*where, f"{against}, p", pair["p"], None, None])
    return text.getvalue()


def _figures(system: Summary) -> Iterator[tuple[str, list[Any]]]:
    ends = ("value", "low", "high")
    for name, found in system["metrics"].items():
        yield name, [found[end] for end in ends]
    if system.get("read_from_memory"):
        yield "read_from_memory_f1", [system["read_from_memory"][end] for end in ends]
    if system.get("pairs_per_second"):
        yield "pairs_per_second", [system["pairs_per_second"], None, None]
    if system["retained_f1"]:
        yield "retained_f1", [system["retained_f1"][end] for end in ends]
    for name, found in (system["against_clara"] or {}).items():
        yield f"{name} against clara", [found[end] for end in ends]
        yield f"{name} against clara, p", [found["p"], None, None]
    for kind in ("seconds", "peak_bytes"):
        for phase, value in system[kind].items():
            yield f"{kind} {phase}", [value, None, None]
    for name in (*TOKENS, "left_out", "cut_short", "answered"):
        yield name, [system[name], None, None]
    yield "failed", [len(system["failed"]), None, None]


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
    """The figures of every evaluation in a folder, by where they lie. Raises `ClaraError`: there are none."""
    files = sorted(folder.glob(f"**/{SUMMARY}")) if folder.is_dir() else []
    if not files:
        raise ClaraError(f"{folder} holds no evaluation; run clara-eval with --out {folder} first")
    return {file.parent: json.loads(file.read_text(encoding="utf-8")) for file in files}


def write(folder: Path) -> list[Path]:
    """Draw the pictures and write the page; all files written, the page first; a `ClaraError` if nothing is there."""
    from clara_model.console.tables import check_pictures

    check_pictures()
    found = summaries_in(folder)
    some = list(found.values())
    drawn = [folder / f"{name}.png" for name, draw in PICTURES.items() if draw(some, folder / f"{name}.png")]
    shown = [base64.b64encode(file.read_bytes()).decode("ascii") for file in drawn]
    pairs = zip(drawn, shown, strict=True)
    parts = [f'<p><img alt="{file.stem}" src="data:image/png;base64,{data}"></p>' for file, data in pairs]
    body = "\n".join([*parts, *(_evaluation(place, one) for place, one in found.items())])
    page = folder / PAGE
    page.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>clara-eval</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>What was measured</h1>\n{body}\n</body></html>\n",
        encoding="utf-8",
    )
    return [page, *drawn]


def worst(records: Mapping[str, Sequence[Record]], count: int = WORST) -> list[tuple[float, Record, Record | None]]:
    """The questions that ``clara`` did not get whole: those first on which it lost most against ``text`` (else 1).

    Each with what was lost (F1, or ROUGE-L of a paraphrase), the record of ``clara``, and that of ``text`` if any.
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
    written = {name: Records(place, name).path for name in summary["systems"]}
    records = {name: list(read_records(file)) for name, file in written.items() if file.exists()}
    pairs, bad = pairs_grid(summary), "".join(_question(*one) for one in worst(records))
    facts = ", ".join(f"{name} {value}" for name, value in summary["environment"].items())
    failures = [
        f'<p class="bad">{escape(name)}: {escape(one.source or str(one.number))}: {escape(one.error or "")}</p>'
        for name, some in records.items()
        for one in some
        if one.failed
    ]
    return "\n".join(
        [
            f"<h2>{escape(caption(summary))}</h2>",
            _table(grid(summary)),
            "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes(summary)) + "</ul>",
            *failures,
            f"<p>{escape(facts)}</p>",
            f"<h3>Any two systems, paired by question</h3>{_table(pairs)}" if pairs else "",
            f"<h3>Worst questions, those first on which latents lost most against text</h3>{bad}" if bad else "",
        ]
    )


def _table(found: Grid) -> str:
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

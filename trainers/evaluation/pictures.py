"""The pictures of a report, each from the summaries of several evaluations into one PNG (matplotlib, extra ``plots``).

Systems keep one colour in all pictures. A picture without anything to show is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clara_model.console.tables import shortened
from trainers.evaluation.measuring import PHASES
from trainers.evaluation.summary import CONTROLS, NOT_READ, kind_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Summary = Mapping[str, Any]
COLOURS = {"clara": "#3b6fb6", "text": "#e08e45", "closed": "#9a9a9a", "first": "#b7a57a", "bm25": "#4f9d69"}
COLOURS |= {"wrong": "#c9a0a0", "shuffled": "#a9bcd6"}
OTHERS = ("#8e5ea2", "#c44e52", "#64b5cd", "#937860")
PHASE_COLOURS = dict(zip(PHASES, ("#3b6fb6", "#8fb8de", "#c9c9c9", "#e08e45"), strict=True))
RECALLS = ("recall@1", "recall@3", "recall@5")
HITS = ("answer@1", "answer@3", "answer@5")


def colour(system: str, systems: Sequence[str]) -> str:
    """Of a system; the same in every picture of a report."""
    others = [name for name in systems if name not in COLOURS]
    return COLOURS.get(system) or OTHERS[others.index(system) % len(OTHERS)]


def title(summary: Summary) -> str:
    """Of one evaluation, short."""
    asked = summary["asked"]
    return f"{Path(asked['dataset']).name.removesuffix('.jsonl')}, {asked['setting']}"


def names_of(summaries: Sequence[Summary]) -> list[str]:
    """Every system of some evaluations, each once."""
    return list(dict.fromkeys(name for one in summaries for name in one["systems"]))


def _framed(shown: Sequence[Summary], height: float) -> tuple[Figure, list[tuple[Axes, Summary]]]:
    figure, frames = panels(len(shown), height)
    for axes, one in zip(frames, shown, strict=True):
        axes.set_title(f"{_model(one)}: {title(one)}", fontsize=10, loc="left")
    return figure, list(zip(frames, shown, strict=True))


def answers(summaries: Sequence[Summary], path: Path) -> bool:
    """Answer quality of every system, a panel for each evaluation, with 95 % intervals."""
    score = _score(summaries)
    shown = [one for one in summaries if any(score in system["metrics"] for system in one["systems"].values())]
    if not shown:
        return False
    names = names_of(shown)
    figure, frames = _framed(shown, 0.42 * len(names) + 1.5)
    for axes, one in frames:
        systems = [name for name in one["systems"] if score in one["systems"][name]["metrics"]]
        for row, name in enumerate(systems):
            found = one["systems"][name]["metrics"][score]
            axes.barh(row, found["value"], height=0.62, color=colour(name, names), zorder=3)
            end = found["value"]
            if found["low"] is not None:
                axes.hlines(row, found["low"], end := found["high"], color="#333333", linewidth=1.2, zorder=4)
            axes.text(end + 0.015, row, f"{found['value']:.2f}", va="center", fontsize=8.5, color="#444444")
        axes.set(yticks=range(len(systems)), yticklabels=[_short(name) for name in systems])
        axes.set(ylim=(len(systems) - 0.5, -0.5), xlim=(0, 1.12), xlabel=f"{LABELS[score]} (bars: 95 %)")
        plain(axes, "x")
    return saved(figure, "Answers", path)


LABELS = {"f1": "F1", "rougeL": "ROUGE-L"}


def ranking(summaries: Sequence[Summary], path: Path) -> bool:
    """Recall at 1, 3 and 5 of every way of ranking; without gold documents, whether an answer is among the first."""
    shown = [one for one in summaries if _ranked(one)]
    if not shown:
        return False
    names = names_of(shown)
    figure, frames = _framed(shown, 3.2)
    for axes, one in frames:
        figures, lines = _ranked(one) or (RECALLS, [])
        k = [int(figure_name.partition("@")[2]) for figure_name in figures]
        for name in lines:
            found = [one["systems"][name]["metrics"][figure_name] for figure_name in figures]
            label, shade = "as retrieved" if name == "first" else _short(name), colour(name, names)
            axes.plot(k, [value["value"] for value in found], marker="o", color=shade, label=label, zorder=3)
            if found[0]["low"] is not None:
                low, high = ([value[end] for value in found] for end in ("low", "high"))
                axes.fill_between(k, low, high, color=shade, alpha=0.13, linewidth=0)
        label = "recall" if figures is RECALLS else "an accepted answer is in them"
        axes.set(xticks=[1, 3, 5], ylim=(0, 1.03), xlabel="documents, best first", ylabel=label)
        _legend(axes)
        plain(axes, "y")
    return saved(figure, "Ranking (bands: 95 %)", path)


def _ranked(summary: Summary) -> tuple[tuple[str, ...], list[str]] | None:
    """Which figures, and the systems that rank; ``text`` has the ranking of ``clara``."""
    for figures in (RECALLS, HITS):
        systems = summary["systems"].items()
        others = [(name, one) for name, one in systems if kind_of(name) not in ("text", *CONTROLS)]
        lines = [name for name, one in others if set(figures) <= set(one["metrics"])]
        if lines:
            return figures, lines
    return None


def costs(summaries: Sequence[Summary], path: Path) -> bool:
    """Seconds and peak memory of each phase, a row for each system."""
    pairs = [(one, name, system) for one in summaries for name, system in one["systems"].items()]
    rows = [(one, name) for one, name, system in pairs if system["seconds"] and kind_of(name) not in CONTROLS]
    if not rows:
        return False
    figure, (left, right) = panels(2, height=0.36 * len(rows) + 1.7)
    for row, (one, name) in enumerate(rows):
        system, start = one["systems"][name], 0.0
        for phase, seconds in system["seconds"].items():
            left.barh(row, 1000 * seconds, left=start, height=0.6, color=PHASE_COLOURS[phase], zorder=3)
            start += 1000 * seconds
        left.text(start, row, f" {start:,.0f}", va="center", fontsize=8.5, color="#444444")
        height = 0.7 / max(1, len(system["peak_bytes"]))
        for place, (phase, value) in enumerate(system["peak_bytes"].items()):
            middle = row - 0.35 + (place + 0.5) * height
            right.barh(middle, value / 2**20, height=height, color=PHASE_COLOURS[phase], zorder=3)
    labels = [f"{_short(name)}  ({_model(one)}: {title(one)})" for one, name in rows]
    titled = ((left, "milliseconds a question", labels), (right, "peak memory, MiB", [""] * len(rows)))
    for axes, label, ticks in titled:
        axes.set(ylim=(len(rows) - 0.5, -0.6), yticks=range(len(rows)), yticklabels=ticks, xlabel=label)
        axes.margins(x=0.12)
        plain(axes, "x")
    right.tick_params(axis="y", length=0)
    from matplotlib.patches import Patch

    used = [phase for phase in PHASES if any(phase in one["systems"][name]["seconds"] for one, name in rows)]
    _legend(left, handles=[Patch(color=PHASE_COLOURS[phase], label=phase) for phase in used])
    return saved(figure, "Time and memory", path)


def rates(summaries: Sequence[Summary], path: Path) -> bool:
    """Answer quality against how many text tokens one slot stands for, with reading the text itself as a line."""

    def tokens_a_slot(one: Summary) -> float:
        return max(one["systems"]["clara"]["text_tokens"] / (one["asked"]["slots"] * one["asked"]["top_k"]), 0.1)

    score = _score(summaries)
    shown: dict[str, list[Summary]] = {}
    for one in summaries:
        if "clara" in one["systems"] and score in one["systems"]["clara"]["metrics"]:
            shown.setdefault(title(one), []).append(one)
    if not shown:
        return False
    figure, frames = panels(len(shown), height=3.3)
    for axes, (name, some) in zip(frames, shown.items(), strict=True):
        points = sorted(((tokens_a_slot(one), one) for one in some), key=lambda point: point[0])
        for place, (rates_x, values) in enumerate(_curves(points, score)):
            label = "latents" if place == 0 else None
            axes.plot(rates_x, values, marker="o", color=COLOURS["clara"], label=label, zorder=3)
        for place, (rate, one) in enumerate(points):
            value = one["systems"]["clara"]["metrics"][score]
            if value["low"] is not None:
                axes.vlines(rate, value["low"], value["high"], color=COLOURS["clara"], alpha=0.5, zorder=2)
            beside = (6, -11 if place % 2 else 5)  # below and above in turn, so that neighbours' names do not meet
            axes.annotate(_model(one), (rate, value["value"]), xytext=beside, textcoords="offset points", fontsize=8)
        for system, label in (("text", "the same passages as text"), ("closed", "closed book")):
            lines = {one["systems"][system]["metrics"][score]["value"] for _, one in points if system in one["systems"]}
            for place, value in enumerate(sorted(lines)):
                said = label if place == 0 else None
                axes.axhline(value, color=COLOURS[system], linestyle="--", label=said, zorder=1)
        axes.set_xscale("log", base=2)
        low, high = int(np.floor(np.log2(points[0][0] / 2))), int(np.ceil(np.log2(points[-1][0] * 2)))
        axes.set(xticks=[2.0**power for power in range(low, high + 1)], xlim=(2.0**low, 2.0**high), ylim=(0, 1.05))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="text tokens of a slot", ylabel=LABELS[score])
        axes.set_title(name, fontsize=10, loc="left")
        _legend(axes)
        plain(axes, "y")
    return saved(figure, "Accuracy against rate", path)


def _curves(points: Sequence[tuple[float, Summary]], score: str) -> list[tuple[list[float], list[float]]]:
    """Rates and scores of the checkpoints that stand on one base, which a line joins."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for rate, one in points:
        x, values = curves.setdefault(one["asked"].get("base") or _model(one), ([], []))
        x.append(rate)
        values.append(one["systems"]["clara"]["metrics"][score]["value"])
    return list(curves.values())


def places(summaries: Sequence[Summary], path: Path) -> bool:
    """Exact match by where the first gold document stood among what was read."""
    shown = [one for one in summaries if any(len(system["by_place"]) > 1 for system in one["systems"].values())]
    if not shown:
        return False
    names = names_of(shown)
    figure, frames = _framed(shown, 3.0)
    for axes, one in frames:
        systems = {name: system["by_place"] for name, system in one["systems"].items() if system["by_place"]}
        found = {place for by_place in systems.values() for place in by_place}
        order = sorted(found, key=lambda place: (place == NOT_READ, len(place), place))
        width = 0.8 / len(systems)
        for number, (name, by_place) in enumerate(systems.items()):
            for column, place in enumerate(order):
                if place in by_place:
                    x, em = column - 0.4 + (number + 0.5) * width, by_place[place]["em"]
                    axes.bar(x, em, width=0.92 * width, color=colour(name, names), zorder=3)
                    axes.text(x, em + 0.012, str(by_place[place]["questions"]), ha="center", fontsize=6.5)
            axes.bar(0, 0, color=colour(name, names), label=_short(name))
        axes.set(xticks=range(len(order)), xticklabels=order, ylim=(0, 1.12), ylabel="EM")
        axes.set_xlabel("place of the first gold document among what was read")
        _legend(axes)
        plain(axes, "y")
    return saved(figure, "Exact match by place (numbers: questions)", path)


def _score(summaries: Sequence[Summary]) -> str:
    """What answers are judged by: F1, or ROUGE-L where all evaluations are of paraphrases."""
    systems = [system for one in summaries for system in one["systems"].values()]
    return "f1" if any("f1" in system["metrics"] for system in systems) else "rougeL"


def _model(summary: Summary) -> str:
    return Path(summary["asked"]["model"]).name


def _short(name: str) -> str:
    """A system's name, not too long; a dollar sign would begin a formula."""
    return shortened(name, 36).replace("$", r"\$")


def panels(count: int, height: float, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, each of a height in inches."""
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(6.4 * columns, height * rows + 0.4), dpi=120, layout="constrained")
    found = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in found[count:]:
        unused.remove()
    return figure, found[:count]


def _legend(axes: Axes, **more: Any) -> None:
    """Beside the panel, where it hides nothing."""
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0, **more)


def plain(axes: Axes, grid: str) -> None:
    """Two edges and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8, zorder=0)  # type: ignore[arg-type]


def saved(figure: Figure, heading: str, path: Path) -> bool:
    """Write the figure under a heading; always True."""
    figure.suptitle(heading, fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path, format="png")
    return True

"""What the command line shows: answers, ranked passages and sizes as terminal text, and a picture of scores and times.

Texts of documents and answers are data: control characters are made visible, and nothing in them is read as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from clara_model.defaults import NO_ANSWER
from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.inference.clara import Answer, Timings, Usage

PHASES = ("compress", "query", "rank", "generate")
PHASE_COLOURS = ("#3b6fb6", "#8fb8de", "#c9c9c9", "#e08e45")
_RIGHT, _WRONG = "#2e7d32", "#c62828"
_BAR_CELLS = 16
_WIDTH_FOR_BARS = 90  # columns below which a ranking goes without bars
_AROUND = 40  # characters shown before and after a quote
_BLOCKS = " ▏▎▍▌▋▊▉█"


def visible(text: str) -> str:
    """The text with everything a terminal would act on made visible; line ends stay."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def shortened(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def bar(value: float, largest: float) -> str:
    """A horizontal bar of block characters; empty where there is nothing positive to show."""
    eighths = round(_BAR_CELLS * 8 * max(0.0, min(1.0, value / largest))) if largest > 0 else 0
    return "█" * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")


def seconds(value: float) -> str:
    """A duration in the unit that reads best."""
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def ranking(rows: Sequence[tuple[float | None, str, str, bool]], width: int) -> Text:
    """Ranked passages, best first, a line each.

    Args:
        rows: score (None where the checkpoint cannot rank), place (title or citation), text, and whether it was read.
        width: the columns one line may take.
    """
    largest = max((score for score, *_ in rows if score is not None), default=0.0)
    lines = []
    for rank, (score, place, text, read) in enumerate(rows, start=1):
        number = "-" if score is None else f"{score:.3f}"
        line = Text(f"{rank:>3}  {number:>6}  ", style="" if read else "dim")
        if width >= _WIDTH_FOR_BARS:
            line.append(f"{bar(score or 0.0, largest):<{_BAR_CELLS}}  ", style="cyan" if read else "")
        line.append(f"{visible(place)}  ").append(shortened(text, 300), style="dim")
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return Text("\n").join(lines)


def answer_text(answer: Answer, min_confidence: float = 0.0) -> Text:
    """The answer, or that there is none; numbers and names that stand in nothing that was read are coloured."""
    if not answer.found(min_confidence):
        return Text(NO_ANSWER)
    text = Text(visible(answer.text))
    text.highlight_words(answer.unsupported or (), "red")
    return text


def support(answer: Answer, documents: Sequence[str], places: Sequence[str]) -> Text:
    """Where the longest of an answer's quotes stands, what stands nowhere, and how likely the model found the answer.

    Args:
        answer: its quotes count the documents as below.
        documents: their texts.
        places: title or citation of each.
    """
    parts = []
    if answer.quotes:
        quote = max(answer.quotes, key=lambda one: one.end - one.start)
        text, start, end = documents[quote.document], quote.document_start, quote.document_end
        before, after = text[max(0, start - _AROUND) : start], text[end : end + _AROUND]
        shown = shortened(f"{before}{text[start:end]}{after}", 2 * _AROUND + end - start)
        parts.append(f"“{shown}” ({visible(places[quote.document])})")
    if answer.unsupported:
        parts.append(f"not in what was read: {visible(', '.join(answer.unsupported))}")
    if answer.confidence is not None:
        parts.append(f"confidence {answer.confidence:.2f}")
    return Text("; ".join(parts), style="dim")


def usage_line(usage: Usage, read: int, candidates: int) -> str:
    """How much text the generator did not have to read."""
    rest, slots = usage.text_tokens - usage.expanded_tokens, usage.slots
    saved = ""
    if rest and slots:
        saved = f" ({slots / rest:.1f}x more)" if slots > rest else f" ({rest / slots:.1f}x fewer)"
    shown = f"{usage.expanded_tokens:,} tokens as text, " if usage.expanded_tokens else ""
    return (
        f"read {read} of {candidates} passages: {shown}{rest:,} tokens of text in {slots:,} slots{saved}, "
        f"{usage.completion_tokens:,} tokens written"
    )


def costs(answer: Answer, candidates: int, *, compressed: bool) -> Text:
    """How much text the generator did not have to read, and where the time went."""
    read = usage_line(answer.usage, len(answer.selected), candidates)
    return Text(f"{read}\n{timings_line(answer.timings, compressed=compressed)}", style="dim")


def timings_line(timings: Timings, *, compressed: bool = True) -> str:
    """Where the time went; where nothing was ``compressed``, the first phase was looking up what is kept."""
    names = ("compress" if compressed else "look up", *PHASES[1:])
    return ", ".join(f"{name} {seconds(getattr(timings, phase))}" for name, phase in zip(names, PHASES, strict=True))


def info_table(info: Mapping[str, Any]) -> Table:
    """Facts, one a row; nested ones are indented below their name."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")

    def add(values: Mapping[str, Any], indent: str) -> None:
        for name, value in values.items():
            label = indent + visible(name.replace("_", " ") if name.isidentifier() else name)
            if isinstance(value, Mapping):
                if value:
                    table.add_row(Text(label), "")
                    add(value, indent + "  ")
            else:
                table.add_row(Text(label), Text(visible(_fact(name, value))))

    add(info, "")
    return table


def _fact(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value / 1e6:,.1f} MB" if "bytes" in name else f"{value:,}"
    if isinstance(value, float):
        return f"{value:,}"
    return str(value)


def check_pictures() -> None:
    """See that pictures can be drawn, before the work that one would show.

    Raises:
        ClaraError: matplotlib, which draws them, is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ClaraError("a picture needs matplotlib; install it with: pip install 'clara-integrations[plots]'")


def save_picture(path: Path, title: str, shown: Sequence[tuple[str, Answer, bool]]) -> None:
    """Draw the scores of every candidate and where the time went, one row a question, into a PNG file.

    Args:
        path: the file; its folder must exist.
        title: the heading.
        shown: each question, its answer, and whether that is right.
    """
    from matplotlib.figure import Figure  # an extra

    questions, answers = [question for question, _, _ in shown], [answer for _, answer, _ in shown]
    rows = range(len(questions))
    figure = Figure(figsize=(13, 1.9 + 0.62 * len(questions)), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")

    for row, answer in zip(rows, answers, strict=True):
        read = set(answer.selected)
        for used, colour, size in ((False, "#b5b5b5", 26), (True, PHASE_COLOURS[0], 52)):
            scores = [ranked.score for ranked in answer.ranking if (ranked.index in read) is used]
            label = ("read by the generator" if used else "left out") if row == 0 else None
            left.scatter(
                scores, [row] * len(scores), s=size, color=colour, alpha=0.85, linewidths=0, label=label, zorder=3
            )
    left.set_xlabel("score of question and document")
    left.set_title("Scores of all candidates", fontsize=11, loc="left")
    left.set_yticks(list(rows), [_row_label(*one) for one in shown])
    for label, (_, _, right_one) in zip(left.get_yticklabels(), shown, strict=True):
        label.set_color(_RIGHT if right_one else _WRONG)
    left.set_ylim(len(questions) - 0.5, -0.5)

    starts = [0.0] * len(questions)
    for phase, colour in zip(PHASES, PHASE_COLOURS, strict=True):
        widths = [1000 * getattr(answer.timings, phase) for answer in answers]
        right.barh(list(rows), widths, left=starts, height=0.5, color=colour, label=phase, zorder=3)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for row, total in zip(rows, starts, strict=True):
        right.text(total, row, f"  {total:,.0f}", va="center", fontsize=9, color="#555555")
    right.set_xlim(0, 1.12 * max(starts, default=1.0) or 1.0)
    right.set_xlabel("milliseconds")
    right.set_title("Where the time went", fontsize=11, loc="left")

    below = -0.55 / (0.62 * len(questions))  # inches under the axis, as a share of its height
    for axes in (left, right):
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, below),
            borderaxespad=0,
            borderpad=0,
            ncols=4,
            frameon=False,
            handlelength=1,
        )
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8, zorder=0)
    figure.savefig(path, format="png")


def _row_label(question: str, answer: Answer, right: bool) -> str:
    """Question and answer, with nothing that matplotlib would read as a formula."""
    said = shortened(answer_text(answer).plain, 44) or "(nothing)"
    return f"{shortened(question, 46)}\n{'✓' if right else '✗'} {said}".replace("$", r"\$")

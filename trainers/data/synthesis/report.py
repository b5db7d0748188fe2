"""What `clara-data synthesize` shows: the requests of a dry run, and what a run made and spent.

Leaves out printing (`trainers.data.report`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from clara_model.console.tables import visible
from trainers.data.synthesis.journal import Outcome, Spent
from trainers.data.synthesis.prompts import Messages
from trainers.data.synthesis.run import Unfinished

FIRST_WORDS = 60
"""Characters of a passage that it is named by."""


def prompts_report(requests: Iterable[tuple[str, Messages]]) -> RenderableType:
    """Every kind of request, with what stands in it."""
    parts: list[RenderableType] = []
    for what, messages in requests:
        parts.append(Text(f"\n=== {what} ===", style="bold"))
        for message in messages:
            parts += [Text(f"[{message['role']}]", style="cyan"), Text(visible(message["content"]))]
    return Group(*parts)


def cost(spent: Spent, price_in: float, price_out: float) -> float:
    """What some tokens cost, in the currency of the prices per million."""
    return (spent.prompt_tokens * price_in + spent.completion_tokens * price_out) / 1e6


def synthesis_facts(
    passages: int, outcomes: Iterable[Outcome], run: Spent, all_runs: Spent, price_in: float, price_out: float
) -> dict[str, object]:
    """What a run made and spent, as plain values."""
    rows, dropped, counts, finished = Counter[str](), Counter[str](), Counter[str](), 0
    for outcome in outcomes:
        finished += 1
        rows.update(row["data_type"] for row in outcome.rows)
        dropped.update(f"{what}: {reason}" for what, reason in outcome.dropped.items())
        counts.update(outcome.counts)
    return {
        "passages": passages,
        "finished": finished,
        "rows": dict(rows),
        "dropped": dict(dropped.most_common()),
        "counts": dict(counts),
        "this run": _spent(run, price_in, price_out),
        "all runs": _spent(all_runs, price_in, price_out),
    }


def unfinished_facts(unfinished: Unfinished, unanswered: int) -> dict[str, object]:
    """Passages without an outcome, by their first words, with the reason; requests whose reply never came."""
    found: dict[str, object] = {}
    for name, passages in (("failed", unfinished.failed), ("skipped for good", unfinished.skipped)):
        if passages:
            found[name] = {" ".join(text.split())[:FIRST_WORDS]: why for text, why in passages.items()}
    if unanswered:
        found["requests without a reply, which may cost too"] = unanswered
    return found


def _spent(spent: Spent, price_in: float, price_out: float) -> dict[str, object]:
    values: dict[str, object] = {
        "requests": spent.requests,
        "prompt tokens": spent.prompt_tokens,
        "completion tokens": spent.completion_tokens,
    }
    return values | ({"cost": round(cost(spent, price_in, price_out), 4)} if price_in or price_out else {})

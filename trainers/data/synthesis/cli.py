"""`clara-data synthesize`: from folders of raw text to a file of stage-1 rows, with a summary of rows and cost."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from clara_model.console.command import at_least_one, output, print_json, progress, show_error
from clara_model.console.tables import info_table, visible
from clara_model.documents import passages
from clara_model.errors import ClaraError
from trainers.data.jsonl import check_output, write_rows
from trainers.data.synthesis import run as synthesis
from trainers.data.synthesis.client import NO_KEY, Endpoint, EndpointConfig
from trainers.data.synthesis.journal import Journal, Outcome, Spent
from trainers.data.synthesis.run import KINDS, SynthesisConfig, Unfinished
from trainers.data.token_counts import TokenCounter, token_counter

WORDS_PER_PASSAGE = 180
"""Where no tokenizer is given: English words that stay below 256 tokens of most tokenizers."""
BAD_DATA = 1
FIRST_WORDS = 60
"""Characters of a passage that it is named by."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments to the parser."""
    add = parser.add_argument
    add("sources", nargs="+", metavar="FOLDER", help="raw documents: folders or files, .txt, .md, .jsonl")
    add("--out", type=Path, metavar="FILE", help="where the rows go, .jsonl or .jsonl.gz")
    add("--base-url", metavar="URL", help="OpenAI-compatible endpoint, e.g. http://localhost:8000/v1")
    add("--model", metavar="NAME", help="the chat model's name there")
    add("--dry-run", action="store_true", help="show the prompts for the first passage and ask nothing")

    generation = parser.add_argument_group("generation")
    add = generation.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of rows to write (default: all three)")
    add("--rounds", type=int, default=10, metavar="N", help="rounds until a passage is dropped (default, paper: 10)")
    add("--attempts", type=int, default=3, metavar="N", help="attempts at a readable reply (default: 3)")
    add("--passage-tokens", type=at_least_one, metavar="N", help="longest passage (default: the model's, else 256)")
    add("--tokenizer", metavar="NAME", help="counts the passages' tokens: checkpoint, base model or tokenizer "
        "(default: clara-tiny's if it is installed, else words)")  # fmt: skip
    add("--limit", type=at_least_one, metavar="N", help="only the first N passages")

    requests = parser.add_argument_group("requests")
    add = requests.add_argument
    add("--api-key-env", metavar="NAME", help="environment variable with the key (default: no key; OPENAI_API_KEY for "
        "api.openai.com)")  # fmt: skip
    add("--temperature", type=float, default=0.7, metavar="T", help="sampling temperature (default: 0.7); checks use 0")
    add("--max-tokens", type=int, default=2048, metavar="N", help="longest reply (default: 2048)")
    add("--verdict-tokens", type=int, default=16, metavar="N", help="longest reply to a check; more for a model that "
        "reasons (default: 16)")  # fmt: skip
    add("--concurrency", type=int, default=8, metavar="N", help="concurrent requests (default: 8)")
    add("--requests-per-minute", type=float, metavar="N", help="HTTP requests started per minute (default: no limit)")
    add("--retries", type=int, default=6, metavar="N", help="of a request on 429, 5xx, no connection (default: 6)")
    add("--failures", type=at_least_one, default=3, metavar="N", help="of a passage until it is skipped (default: 3)")
    add("--timeout", type=float, default=300.0, metavar="SECONDS", help="timeout of one HTTP request (default: 300)")
    add("--extra-body", type=_json_object, default={}, metavar="JSON", help="fields added to every request; null takes "
        'one out, e.g. \'{"temperature": null}\'')  # fmt: skip

    bookkeeping = parser.add_argument_group("journal and cost")
    add = bookkeeping.add_argument
    add("--journal", type=Path, metavar="FILE", help="file of all replies, to resume from (default: OUT.journal)")
    add("--price-in", type=float, default=0.0, metavar="PRICE", help="price of a million prompt tokens")
    add("--price-out", type=float, default=0.0, metavar="PRICE", help="price of a million completion tokens")
    add("--json", action="store_true", help="print the summary as one JSON object")
    add("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    args.kinds = tuple(args.kinds)
    config = SynthesisConfig(**{one.name: getattr(args, one.name) for one in fields(SynthesisConfig)})
    if args.dry_run:
        _dry_run(args, config)
        return 0
    needed = {"--out": args.out, "--base-url": args.base_url, "--model": args.model}
    if missing := [flag for flag, value in needed.items() if not value]:
        raise ClaraError(f"{', '.join(missing)} must be given; --dry-run shows the prompts without")
    args.api_key = _api_key(args.base_url, args.api_key_env)
    endpoint = EndpointConfig(**{one.name: getattr(args, one.name) for one in fields(EndpointConfig)})
    journal_path = args.journal or args.out.with_name(f"{args.out.name}.journal")
    check_output(args.out, overwrite=journal_path.exists())
    texts = _passages(args, token_counter(args.tokenizer))
    with Journal(journal_path, synthesis.settings_digest(config, args.model)) as journal:
        return _run_synthesis(args, texts, config, endpoint, journal)


def _run_synthesis(
    args: argparse.Namespace, texts: list[str], config: SynthesisConfig, endpoint: EndpointConfig, journal: Journal
) -> int:
    """Ask, then write what is finished, also where the asking ended early."""
    spent, unfinished = Spent(), Unfinished()

    async def ask() -> None:
        nonlocal spent, unfinished
        async with Endpoint(endpoint, journal) as opened:
            spent = opened.spent
            with _progress(len(texts), opened, args) as on_passage:
                unfinished = await synthesis.synthesize(texts, opened, config, on_passage, failures=args.failures)

    try:
        asyncio.run(ask())
    finally:
        rows = write_rows(args.out, synthesis.finished_rows(texts, journal))
        outcomes = (journal.outcome(key) for key in map(synthesis.passage_key, texts) if journal.is_finished(key))
        prices = args.price_in, args.price_out
        facts = synthesis_facts(len(texts), outcomes, spent, journal.spent, *prices)
        facts |= _unfinished_facts(unfinished, journal.unanswered)
        if journal.spent.requests:
            print_json({"out": str(args.out), **facts}) if args.json else output().print(info_table(facts))
    if unfinished.failed:
        show_error("clara-data", f"{len(unfinished.failed)} passages failed; run again to try them once more")
    if not rows:
        show_error("clara-data", f"no row came out of {len(texts)} passages; the reasons are listed under dropped")
        return BAD_DATA
    if not args.json:
        output().print(Text(f"{rows:,} rows in {args.out}"))
    return 0


def _passages(args: argparse.Namespace, counter: TokenCounter) -> list[str]:
    longest = args.passage_tokens or (WORDS_PER_PASSAGE if counter.unit == "words" else counter.doc_max_length)
    documents = passages.read_documents(args.sources)
    split = passages.split_documents(documents, lambda text: counter.count([text])[0], longest)
    return list(dict.fromkeys(passage.text for passage in split))[: args.limit]


def _dry_run(args: argparse.Namespace, config: SynthesisConfig) -> None:
    counter = token_counter(args.tokenizer)
    texts = _passages(args, counter)
    guess = synthesis.estimate(texts, config, counter.count)
    for what, messages in synthesis.sample_requests(texts[0], config):
        output().print(Text(f"\n=== {what} ===", style="bold"))
        for message in messages:
            output().print(Group(Text(f"[{message['role']}]", style="cyan"), Text(visible(message["content"]))))
    price = _cost(guess, args.price_in, args.price_out)
    said = f"\n{len(set(texts)):,} passages would take about {guess.requests:,} requests, {guess.prompt_tokens:,} "
    said += f"{counter.unit} in and {guess.completion_tokens:,} out"
    output().print(Text(said + (f", at a cost of {price:,.2f}" if price else "") + ". Nothing was asked."))


def _cost(spent: Spent, price_in: float, price_out: float) -> float:
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

    def tokens(spent: Spent) -> dict[str, object]:
        cost = {"cost": round(_cost(spent, price_in, price_out), 4)} if price_in or price_out else {}
        return {name.replace("_", " "): value for name, value in asdict(spent).items()} | cost

    return {
        "passages": passages,
        "finished": finished,
        "rows": dict(rows),
        "dropped": dict(dropped.most_common()),
        "counts": dict(counts),
        "this run": tokens(run),
        "all runs": tokens(all_runs),
    }


def _unfinished_facts(unfinished: Unfinished, unanswered: int) -> dict[str, object]:
    """Passages without an outcome, by their first words, with the reason; requests whose reply never came."""
    found: dict[str, object] = {}
    for name, texts in (("failed", unfinished.failed), ("skipped for good", unfinished.skipped)):
        if texts:
            found[name] = {" ".join(text.split())[:FIRST_WORDS]: why for text, why in texts.items()}
    if unanswered:
        found["requests without a reply, which may cost too"] = unanswered
    return found


def _api_key(base_url: str, variable: str | None) -> str:
    """The key from the environment; only the endpoint it belongs to gets one that was not named."""
    if variable is None:
        return os.environ.get("OPENAI_API_KEY", NO_KEY) if urlsplit(base_url).hostname == "api.openai.com" else NO_KEY
    if not os.environ.get(variable):
        raise ClaraError(f"the environment variable {variable} of --api-key-env is not set")
    return os.environ[variable]


@contextmanager
def _progress(passages: int, endpoint: Endpoint, args: argparse.Namespace) -> Iterator[synthesis.OnPassage]:
    """A moving line on a terminal: passages, requests, tokens, cost."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("passages"), TimeRemainingColumn())
    with progress(args.quiet, *columns, TextColumn("{task.fields[spent]}")) as bar:
        task = bar.add_task("", total=passages, spent="")

        def advance(_: Outcome) -> None:
            spent = endpoint.spent
            price = _cost(spent, args.price_in, args.price_out)
            words = f"{spent.requests:,} requests, {spent.prompt_tokens + spent.completion_tokens:,} tokens"
            bar.update(task, advance=1, spent=words + (f", {price:.2f}" if price else ""))

        yield advance


def _json_object(word: str) -> Mapping[str, Any]:
    try:
        value = json.loads(word)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {word!r}")
    return value

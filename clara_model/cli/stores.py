"""Commands on a store: `clara search`, `clara ask --store`, `clara store ..`; and the cache.

`clara ask --docs` keeps its latents in the user's cache folder, a store for each checkpoint, bounded in size.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from clara_model.console import tables
from clara_model.console.command import load, output, print_json, progress, streamed, working
from clara_model.defaults import cache_folder
from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.documents.passages import Passage
    from clara_model.inference.clara import Answer, Clara, SearchResults, Timings
    from clara_model.latents import Latents
    from clara_model.store import DurableStore

CACHE_BYTES = 2 << 30
"""Of one checkpoint's latents in the user's cache folder; those put longest ago go first."""
_TEXTS_PER_STEP = 128  # compressed between two steps of the progress bar
FOUND_DAMAGE = 3
"""Exit code of `verify`."""
logger = logging.getLogger(__name__)


def cache() -> Path:
    """Where `clara ask --docs` keeps latents."""
    return cache_folder() / "latents"


def load_with_cache(args: argparse.Namespace) -> Clara:
    """The model with its store in the cache folder; without one where that cannot be used, which is said."""
    from clara_model.store import open_store
    from clara_model.store.opening import evict

    clara = load(args)
    if args.no_store:
        return clara
    folder = cache() / clara.fingerprint
    try:
        with open_store(folder) as store:
            evict(store, CACHE_BYTES)
    except ClaraError as error:
        logger.warning("latents are not kept: %s", error)
        return clara
    with clara:
        return load(args, str(folder))


def store_of(clara: Clara) -> DurableStore | None:
    """Its store, if it has one."""
    from clara_model.store.cache import durable

    return durable(clara.store)


def stored(clara: Clara, keys: Iterable[str]) -> int:
    """How many of some texts the store holds."""
    store = store_of(clara)
    return 0 if store is None else len(store.numbers(list(keys)))


def compress(args: argparse.Namespace, clara: Clara, split: Mapping[str, Passage]) -> Latents:
    """The latents of passages, part by part so that a terminal can show how far it is."""
    from clara_model.latents import Latents

    texts, call = [(key, one.text) for key, one in split.items()], clara.call()
    with progress(args.quiet) as bar:
        starts = bar.track(range(0, len(texts), _TEXTS_PER_STEP), description="Compressing passages")
        return Latents.stack([call.latents(dict(texts[start : start + _TEXTS_PER_STEP])) for start in starts])


def search(args: argparse.Namespace) -> None:
    """`clara search`."""
    with load(args, existing(args.store)) as clara:
        with working("Searching", args):
            results = clara.search(args.question, args.top_k, where=conditions(args.where))
    if args.json:
        print_json({"question": args.question, "results": [asdict(one) for one in results],
                    "timings": asdict(results.timings)})  # fmt: skip
        return
    out = output()
    out.print(tables.ranking([(one.score, one.citation, one.text or "", True) for one in results], out.width))
    if not args.quiet:
        out.print()
        out.print(Text(_times(results), style="dim"))


def ask(args: argparse.Namespace) -> None:
    """`clara ask --store`: one pass for the question, the search, one generation."""
    limits = generation(args)
    with load(args, existing(args.store)) as clara:
        with working("Searching", args):
            results = clara.search(args.question, args.top_k, where=conditions(args.where))
        if results.latents is None:
            raise ClaraError(f"{args.store} holds nothing to answer from (or nothing that fits --where)")
        asked = (args.question, results.latents, len(results))
        if streams(args):
            answer = streamed(clara.stream(*asked, rerank=False, **limits), args)
        else:
            with working("Answering", args):
                answer = clara.answer(*asked, rerank=False, **limits)
    if args.json:
        timings = replace(answer.timings, query=results.timings.query, rank=results.timings.rank)
        print_json(record(args, answer, [{"citation": one.citation, **asdict(one)} for one in results], timings))
        return
    out = output()
    print_answer(args, out, answer)
    if args.quiet:
        out.print(Text("Sources: " + "; ".join(tables.visible(one.citation) for one in results)))
        return
    out.print()
    out.print(tables.ranking([(one.score, one.citation, one.text or "", True) for one in results], out.width))
    out.print(tables.support(answer, [one.text or "" for one in results], [one.citation for one in results]))
    out.print()
    out.print(Text(f"{_times(results)}, generate {tables.seconds(answer.timings.generate)}", style="dim"))


def generation(args: argparse.Namespace) -> dict[str, Any]:
    """How to write, for `Clara.answer`."""
    given = {"max_new_tokens": args.max_new_tokens, "copy": args.copy}
    return {name: value for name, value in given.items() if value}


def streams(args: argparse.Namespace) -> bool:
    """Whether an answer is shown while it is written; not where it may turn out to be none."""
    return bool(args.stream) and not args.min_confidence


def print_answer(args: argparse.Namespace, out: Console, answer: Answer) -> None:
    """The answer, which a stream has shown already, or that there is none."""
    if not streams(args):
        out.print(tables.answer_text(answer, args.min_confidence))


def record(
    args: argparse.Namespace, answer: Answer, passages: Sequence[Mapping[str, Any]], timings: Timings, **more: Any
) -> dict[str, Any]:
    """An answer for JSON."""
    return {
        "question": args.question,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "answered_from": answer.answered_from,
        "found": answer.found(args.min_confidence),
        "confidence": answer.confidence,
        "quotes": [asdict(quote) for quote in answer.quotes],
        "unsupported": answer.unsupported,
        "model": args.model,
        "passages": passages,
        "usage": asdict(answer.usage),
        "timings": asdict(timings),
        **more,
    }


def manage(args: argparse.Namespace) -> int:
    """`clara store`; `FOUND_DAMAGE` where `verify` found some."""
    if args.action == "copy" and not (args.store and args.to):
        raise ValueError("store copy takes two stores: clara store copy FOLDER --to OTHER_FOLDER")
    if args.action != "copy" and (args.to or args.encoding):
        raise ValueError(f"--to and --encoding say where a store is copied; store {args.action} takes neither")
    if args.mend and args.action != "verify":
        raise ValueError(f"--mend drops the damage that verify finds; store {args.action} does not take it")
    folders = [args.store] if args.store else [str(path) for path in sorted(cache().glob("*")) if path.is_dir()]
    records = [_managed(folder, args) for folder in folders]
    if args.json:
        print_json(records)
    else:
        for record in records:
            output().print(tables.info_table(record))
        if not records:
            output().print(f"{cache()} holds no store yet.")
    return FOUND_DAMAGE if any(record.get("damaged") for record in records) else 0


def existing(name: str) -> str:
    """A store that is there, as `existing_store`."""
    from clara_model.store.opening import existing_store  # not before it is known that there is something to do

    return existing_store(name)


def conditions(words: Sequence[str]) -> Mapping[str, Any] | None:
    """``name=value`` words as a filter; a value that reads as a number, ``true`` or ``false`` fits that too.

    Raises:
        ValueError: a word without ``=``.
    """
    where: dict[str, list[Any]] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise ValueError(f"--where takes NAME=VALUE, got {word!r}")
        values = where.setdefault(name, [])
        values.append(value)
        with suppress(ValueError):
            read = json.loads(value)
            if isinstance(read, (bool, int)) or (isinstance(read, float) and math.isfinite(read)):
                values.append(read)
    return where or None


def _times(results: SearchResults) -> str:
    timings = results.timings
    return f"nothing compressed: query {tables.seconds(timings.query)}, search {tables.seconds(timings.rank)}"


def _managed(folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """What is done with one store, and what came of it."""
    from clara_model.search.store_search import StoreSearch
    from clara_model.store import copy_store, open_store

    with open_store(existing(folder)) as store:
        if args.action == "stats":
            return asdict(store.stats())
        if args.action == "verify":
            damages = store.verify(mend=args.mend)
            return {"url": folder, "damaged": len(damages), **{one.where: one.what for one in damages}}
        if args.action == "copy":
            with open_store(args.to, encoding=args.encoding) as other:
                copied = copy_store(store, other)
                return {"url": folder, "copied": copied, "to": args.to, "nbytes": other.stats().nbytes}
        before = store.stats().nbytes
        if args.action == "compact":
            store.compact()
            return {"url": folder, "nbytes_before": before, "nbytes": store.stats().nbytes}
        store.clear()
        StoreSearch(store).clear()
        return {"url": folder, "nbytes_freed": max(0, before - store.stats().nbytes)}

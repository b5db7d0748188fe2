"""`clara compress`: files and folders into a store, once."""

from __future__ import annotations

import argparse
import logging
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from clara_model.checkpoint.options import NAMES
from clara_model.console import tables
from clara_model.console.command import LEFT_OUT, load, output, print_json, progress

if TYPE_CHECKING:
    from clara_model.documents.corpus import Compress, CorpusReport
    from clara_model.inference.clara import Clara
    from clara_model.store import DurableStore

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """The command; its exit code."""
    from clara_model.documents.corpus import compress_corpus
    from clara_model.store import open_store

    with open_store(args.store, encoding=args.encoding, keep_text=False if args.no_text else None) as store:
        with _compressing(args, store) as compress, progress(args.quiet) as bar:
            task = bar.add_task("Compressing", total=None)

            def show(done: CorpusReport) -> None:
                bar.update(
                    task,
                    completed=done.source_bytes,
                    total=done.all_bytes,
                    description=f"{done.documents:,} documents, {done.compressed:,} passages made, {_rates(done)}",
                )

            done = compress_corpus(
                compress,
                store,
                args.inputs,
                sync=args.sync,
                text_key=args.text_key,
                metadata=args.metadata,
                progress=show,
            )
        stats = store.stats()
    code = LEFT_OUT if done.bad or done.kept else 0
    if args.json:
        print_json({**asdict(done), "store": asdict(stats)})
        return code
    out = output()
    for _, reason in done.bad:
        out.print(Text(f"left out: {tables.visible(reason)}"))
    out.print(Text(_summary(done)))
    held = f"{stats.documents:,} documents, {stats.blocks:,} passages, {stats.nbytes / 1e6:,.1f} MB"
    out.print(Text(f"{stats.url}: {held}"))
    if done.kept:
        kept = "; ".join(f"{count:,} ({reason.rstrip('.')})" for count, reason in done.kept)
        out.print(Text(f"Not removed, since they may not be gone: {tables.visible(kept)}"))
    return code


def _compressing(args: argparse.Namespace, store: DurableStore) -> AbstractContextManager[Clara | Compress]:
    """A model in this process, or processes or actors with one each."""
    from clara_model.documents import workers

    options = {name: getattr(args, name, None) for name in NAMES if name != "device"}
    if args.devices is not None and args.device is not None:
        raise ValueError("--device and --devices were both given; leave one out")
    if args.engine == "ray":
        if args.device is not None:
            raise ValueError("--device means nothing with --engine ray: an actor has the device that Ray gives it")
        count = workers.check_actors(args.devices)
        return workers.actors(_everywhere(args.model), _everywhere(store.url), options, count)
    devices = [] if args.device else workers.all_devices()
    if args.devices is not None:
        devices = workers.check_devices(args.devices)
    if len(devices) > 1 or args.devices is not None:
        return workers.processes(args.model, store.url, options, devices)
    return load(args, store)


def _everywhere(name: str) -> str:
    """A path in full: actors work in other folders."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _rates(done: CorpusReport) -> str:
    seconds = done.seconds or 1e-9
    return f"{done.tokens / seconds:,.0f} tokens/s, {done.nbytes / 1e6 / seconds:.2f} MB/s"


def _summary(done: CorpusReport) -> str:
    values = vars(done)
    if not values["compressed"] and not values["removed"] and values["unchanged"] == values["documents"]:
        return f"All {values['documents']:,} documents are in the store as they are: nothing was compressed."
    seconds = tables.seconds(values["seconds"])
    return (
        f"{values['documents']:,} documents ({values['unchanged']:,} unchanged, {values['removed']:,} removed): "
        f"{values['compressed']:,} passages compressed in {seconds}, {values['tokens']:,} tokens ({_rates(done)})"
    )

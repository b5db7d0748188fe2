"""Commands around a process that stays: `clara export`, `serve`, `chat`, and `clara ask` of a running server."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rich.text import Text

from clara_model.cli import stores
from clara_model.console import tables
from clara_model.console.command import LEFT_OUT, load, output, print_json, show_error, streamed, working
from clara_model.documents import passages
from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.inference.clara import AnswerStream, Clara

SERVER = "CLARA_URL"
"""The variable that names the address of a running `clara serve`."""
_Asked = tuple["AnswerStream", Callable[[int], str]]
"""An answer as it is written, and the citation of a document that it reads, by index."""


def export(args: argparse.Namespace) -> None:
    """`clara export`: write the merged generator, and say how to serve it."""
    from clara_model.checkpoint import hub
    from clara_model.checkpoint.export import export as write
    from clara_model.engines.vllm import start_command

    with load(args) as clara:
        with working(f"Writing {args.folder}", args):
            name = write(clara.model.base, clara.model.tokens.tokenizer, args.folder)
        dtype = str(clara.model.base.dtype).removeprefix("torch.")
    address = hub.upload(args.folder, args.push) if args.push else None
    command = f"{start_command(name, args.push or str(args.folder))} --dtype {dtype}"
    if args.json:
        print_json({"generator": name, "folder": str(args.folder), "pushed": address, "command": command})
        return
    out = output()
    out.print(f"{args.folder} holds the generator {name}." + (f" Pushed: {address}" if address else ""), markup=False)
    out.print(f"Serve it with vLLM, in an environment of its own:\n  {command}", markup=False)


def serve(args: argparse.Namespace) -> None:
    """`clara serve`: the server is an adapter and stands above this package, so it is named and not imported."""
    import_module("clara_integrations.server.command").serve(args)


# -- clara chat ----------------------------------------------------------------------------------------------------


def chat(args: argparse.Namespace) -> int | None:
    """`clara chat`: one question after the other, the model loaded once.

    Raises:
        ValueError: neither files nor a store, or both.
    """
    if (args.docs is None) == (args.store is None):
        raise ValueError("chat needs --docs FILE_OR_FOLDER or --store FOLDER, one of the two.")
    if args.store:
        with load(args, stores.existing(args.store)) as clara:
            _talk(args, lambda question: _from_store(args, clara, question))
        return None
    unread: list[passages.Unread] = []
    documents = passages.read_documents(args.docs, text_key=args.text_key, unread=unread)
    with stores.load_with_cache(args) as clara:
        by_key = passages.passages_by_key(documents, clara)
        split, latents = list(by_key.values()), stores.compress(args, clara, by_key)
        _talk(
            args,
            lambda question: (
                clara.stream(question, latents, args.top_k, copy=args.copy),
                lambda i: split[i].citation,
            ),
        )
    return LEFT_OUT if unread else None


def _from_store(args: argparse.Namespace, clara: Clara, question: str) -> _Asked:
    found = clara.search(question, args.top_k)
    if found.latents is None:
        raise ClaraError(f"{args.store} holds nothing to answer from")
    stream = clara.stream(question, found.latents, len(found), rerank=False, copy=args.copy)
    return stream, lambda i: found[i].citation


def _talk(args: argparse.Namespace, ask: Callable[[str], _Asked]) -> None:
    """What cannot be answered is said in a sentence, and the talk goes on."""
    out = output()
    for question in _questions():
        try:
            stream, cite = ask(question)
            answer = streamed(stream, args)
        except (ValueError, TypeError) as error:
            show_error("clara", str(error))
            continue
        cited = "; ".join(dict.fromkeys(tables.visible(cite(index)) for index in answer.selected))
        out.print(Text(f"Sources: {cited}", style="dim"))


def _questions() -> Iterator[str]:
    """Lines of standard input to its end; on a terminal with a prompt."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    import readline  # noqa: F401  # arrows and history in the prompt

    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            return
        if question:
            yield question


# -- clara ask of a server -----------------------------------------------------------------------------------------


def ask(args: argparse.Namespace, url: str, documents: Sequence[passages.Document]) -> None:
    """`clara ask` where `SERVER` is set: the server's model answers, from these documents or from its store.

    Raises:
        ClaraError: nobody answers there, or the server refuses.
    """
    body: dict[str, Any] = {"messages": [{"role": "user", "content": args.question}], "stream": args.stream}
    body |= {"top_k": args.top_k, "max_tokens": args.max_new_tokens, "copy": args.copy}
    if documents:
        body["documents"] = [{"id": one.place, "data": one.text} for one in documents]
    else:
        body |= {"store": True, "where": stores.conditions(args.where)}
    out = output()
    text, clara = "", dict[str, Any]()
    with working("Answering", args):
        for values in _replies(url, body):
            choice = values["choices"][0]
            piece = choice["delta"].get("content", "") if args.stream else choice["message"]["content"]
            text, clara = text + piece, values.get("clara", clara)
            if not args.json:
                out.print(Text(tables.visible(piece)), end="")
    sources = clara["sources"]
    if args.json:
        print_json({"question": args.question, "answer": text, "server": url, **clara})
        return
    out.print()
    cited = [_cited(one) for one in sources]
    if args.quiet:
        out.print(Text("Sources: " + "; ".join(map(tables.visible, cited))))
        return
    rows = [(one.get("score"), cite, one["text"], True) for one, cite in zip(sources, cited, strict=True)]
    out.print()
    out.print(tables.ranking(rows, out.width))
    as_slots = clara["text_tokens"] - clara["expanded_tokens"]
    out.print(Text(f"{as_slots} tokens of text read as {clara['slots']} slots by {url}", style="dim"))


def _cited(source: dict[str, Any]) -> str:
    """A source as the server names it: of its store, or of the documents that were sent."""
    return str(source.get("citation") or f"{source['id']}, passage {source['window'] + 1}")


def _replies(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The one reply, or those of a stream."""
    import httpx  # not before it is known that there is something to ask

    headers = {"Authorization": f"Bearer {key}"} if (key := os.environ.get("CLARA_API_KEY")) else {}
    address = f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
    try:
        with httpx.stream("POST", address, json=body, headers=headers, timeout=None) as response:
            if response.status_code != 200 or not body["stream"]:
                yield _read(response.read(), url)
                return
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield _read(line[6:].encode(), url)
    except httpx.HTTPError as error:
        raise ClaraError(
            f"no server answers at {url} ({error or type(error).__name__}); start clara serve there, or unset {SERVER}"
        ) from error


def _read(data: bytes, url: str) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ClaraError(f"what answers at {url} is no clara server")
    if "error" in values:
        raise ClaraError(str(values["message"]))
    return values

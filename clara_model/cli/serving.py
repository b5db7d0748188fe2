"""Commands for more than one process: `clara export`, `clara serve`."""

from __future__ import annotations

import argparse
from importlib import import_module

from clara_model.console.command import load, output, print_json, working


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

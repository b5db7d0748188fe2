"""`clara serve`: the server in a process of its own. SIGTERM lets what is under way end, and takes nothing more."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import socket
from contextlib import ExitStack
from dataclasses import fields

from rich.text import Text
from starlette.middleware.trustedhost import TrustedHostMiddleware

from clara_integrations.server import Settings, create_app
from clara_model.checkpoint import bundled_models
from clara_model.components.extras import naming_extra
from clara_model.console.command import load, output
from clara_model.errors import ClaraError

with naming_extra("uvicorn", "server"):
    import uvicorn

logger = logging.getLogger("clara_model.serve")


def serve(args: argparse.Namespace) -> None:
    """Load the model, once, and serve it until told to stop. Raises `ValueError`: a time or an address that is none."""
    if args.timeout is not None and args.timeout <= 0:
        raise ValueError(f"--timeout must be above 0, got {args.timeout}")
    given = {one.name: getattr(args, one.name) for one in fields(Settings) if getattr(args, one.name, None) is not None}
    settings = Settings(**{"api_key": os.environ.get("CLARA_API_KEY") or None, **given})
    _check_free(args.host, args.port)
    here = _is_loopback(args.host)
    if not here and settings.api_key is None:
        logger.warning("anybody who reaches %s may ask; give --api-key or set CLARA_API_KEY", args.host)
    if note := bundled_models.caution(args.model):
        logger.warning(note)
    with ExitStack() as held:
        clara = held.enter_context(load(args))
        stored = held.enter_context(load(args, args.store)) if args.store else None
        app = create_app(clara, stored, settings)
        if here and settings.api_key is None:  # or a page of another site could ask through a name of its own
            names = ["127.0.0.1", "localhost", "["]  # what stands before the first colon, of [::1] too
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*names, args.host])
        if not args.quiet:
            output().print(Text(f"{clara.name} at http://{args.host}:{args.port} (the page, /docs, /metrics)"))
        level, most = "error" if args.quiet else "warning", int(settings.timeout) + 1
        uvicorn.run(app, host=args.host, port=args.port, log_level=level, timeout_graceful_shutdown=most)


def _check_free(host: str, port: int) -> None:
    """Say before anything is loaded that nothing can listen there; else the server says it, in words of its own."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
            return
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no address"
        raise ClaraError(
            f"cannot listen at {host!r}, port {port}: {why}; give --host an address of this machine such as 127.0.0.1 "
            "or 0.0.0.0, and --port one that is free"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

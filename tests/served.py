"""The server of `clara serve` on a loopback port, in a thread of this process."""

import threading
import time
from contextlib import contextmanager

import uvicorn

from clara_integrations.server import Settings, create_app


@contextmanager
def running(clara, store=None, **settings):
    """The address of a running server."""
    app = create_app(clara, store, Settings(**settings))
    # its own log_config closes every handler of this process, and absl's (of rouge_score) then closes pytest's output
    config = uvicorn.Config(app, port=0, log_config=None, log_level="error", timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)

"""Reading a `TextStream` in asyncio, whichever framework asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clara_model.inference.streaming import TextStream


async def read_stream(stream: TextStream[Any]) -> AsyncGenerator[str, None]:
    """The pieces of a stream as they are generated, while the loop goes on with other tasks.

    Leaving early ends the generation: ``async with contextlib.aclosing(read_stream(stream)) as pieces``.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | BaseException | None] = asyncio.Queue()

    def send(item: str | BaseException | None) -> None:
        try:
            loop.call_soon_threadsafe(queue.put_nowait, item)
        except RuntimeError:  # the loop is closed, so nobody reads
            threading.Thread(target=stream.close, name="clara-close", daemon=True).start()

    def read() -> None:
        try:
            for piece in stream:
                send(piece)
            send(None)
        except BaseException as error:  # raised again where the pieces are read
            send(error)

    threading.Thread(target=read, name="clara-read", daemon=True).start()
    ended = False
    try:
        while True:
            item = await queue.get()
            ended = not isinstance(item, str)
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        if not ended:  # close waits for the pass that is under way, so not on the loop
            threading.Thread(target=stream.close, name="clara-close", daemon=True).start()

"""Text piece by piece while it is generated: ids to text that is certain, a thread that generates, an iterator to read.

A reader that stops early, or is gone, ends the generation at its next token. Leaves out what is generated: that is the
function a stream is started with.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, Self, TypeVar, TypeVarTuple, Unpack

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from clara_model.inference.scheduler import CancelledError

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")
Decode = Callable[[list[int]], str]
_UNFINISHED = "\ufffd"
"""What a decoder shows for bytes that are not, or not yet, a character."""


class TextPieces:
    """Ids in, the text that they add out.

    Held back until more is known: an incomplete character, and what may be the start of a stop string.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        """``decode`` turns all ids so far into text; the text ends before the first of the ``stop`` strings."""
        self._decode, self._stop = decode, tuple(stop)
        self._ids: list[int] = []
        self._sent = ""

    def push(self, ids: Sequence[int]) -> str:
        """The text that is certain now and was not before; empty where there is none."""
        self._ids.extend(ids)
        text = self._decode(self._ids)
        if text.endswith(_UNFINISHED):
            return ""
        return self._advance(self._certain(text))

    def finish(self, text: str) -> str:
        """What is left to send of the whole text."""
        return self._advance(text)

    def _advance(self, text: str) -> str:
        if not text.startswith(self._sent):  # a decoder may take back bytes that turn out to be no character
            return ""
        piece, self._sent = text[len(self._sent) :], text
        return piece

    def _certain(self, text: str) -> str:
        cuts = [text.find(stop) for stop in self._stop if stop in text]
        if cuts:
            return text[: min(cuts)]
        held = 0
        for stop in self._stop:
            held = max([held, *(n for n in range(1, len(stop)) if text.endswith(stop[:n]))])
        return text[: len(text) - held]


class Feed(BaseStreamer):
    """What a generation writes to: `put` takes ids from transformers, `check` ends what makes them when told to."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[str | None] = SimpleQueue()
        self.cancelled = threading.Event()
        self.pieces: TextPieces | None = None

    def check(self) -> None:
        """Raise `CancelledError` if the reader has closed the stream, or the program is ending."""
        if self.cancelled.is_set() or not threading.main_thread().is_alive():
            raise CancelledError

    def put(self, value: Tensor) -> None:
        """New ids ``[1]``; the prompt, which comes first as ``[1, T]``, is not text of the answer."""
        self.check()
        if value.dim() > 1 or self.pieces is None:
            return
        self._send(self.pieces.push(value.tolist()))

    def finish(self, text: str) -> None:
        """Send what is left of the whole text."""
        if self.pieces is not None:
            self._send(self.pieces.finish(text))

    def end(self) -> None:
        """Called by transformers; the whole text follows in `finish`."""

    def _send(self, piece: str) -> None:
        if piece:
            self.queue.put(piece)


class TextStream(Iterator[str], Generic[Result]):
    """Pieces of text as they are generated; afterwards ``answer`` is the whole result.

    Read it to the end, or close it: ``with clara.stream(..) as stream``. Whether or not it is read, generation goes on.
    """

    def __init__(self, work: Callable[[Feed, Unpack[Arguments]], Result], *args: *Arguments) -> None:
        """Start ``work(feed, *args)`` in a thread of its own; what it feeds comes out here."""
        feed, outcome = Feed(), Future[Result]()
        self._feed, self._outcome = feed, outcome
        self._ended = False
        self._thread = threading.Thread(target=_run, args=(work, feed, outcome, args), name="clara-stream")
        self._thread.start()
        weakref.finalize(self, feed.cancelled.set).atexit = False

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        piece = self._feed.queue.get()
        if piece is not None:
            return piece
        self._ended = True
        self._thread.join()
        error = self._outcome.exception()
        if error is not None and not isinstance(error, CancelledError):
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop generating; returns when the model is free for others."""
        self._feed.cancelled.set()
        self._thread.join()
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def answer(self) -> Result:
        """The whole result, once the stream has been read to its end.

        Raises:
            RuntimeError: the stream has not ended, was closed before its end, or failed.
        """
        if not self._ended or self._outcome.exception() is not None:
            raise RuntimeError("the answer is there once the stream has been read to its end")
        return self._outcome.result()


def _run(work: Callable[..., Result], feed: Feed, outcome: Future[Result], args: tuple[object, ...]) -> None:
    try:
        outcome.set_result(work(feed, *args))
    except BaseException as error:  # raised again where the stream is read
        outcome.set_exception(error)
    finally:
        feed.queue.put(None)

"""The journal of a synthesis run: every question, reply, failure and finished passage, a line each, never changed.

A run that is killed at any moment goes on from its journal. Lines are written with one system call, so a killed process
leaves at most one torn line, the last, which is cut off when the journal is opened; a machine that loses power may lose
the last seconds. Replies of finished passages are not kept in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from clara_model.errors import ClaraError

try:
    import fcntl
except ImportError:  # Windows: nothing stops a second run on the same journal
    fcntl = None  # type: ignore[assignment]

_HEADER = {"journal": "clara-data synthesize", "version": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one request."""

    text: str
    cut_off: bool = False
    """The model ran into the limit on new tokens."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Spent:
    """Answered requests and their tokens, as the endpoint counts them."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, reply: Reply) -> None:
        """Count one reply."""
        self.requests += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one passage."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    """Why there is nothing, by what is missing: ``passage``, ``complex`` or ``paraphrase``."""
    counts: dict[str, int] = field(default_factory=dict)
    """Pairs written, refused by the judge and repeated; replies that could not be read; rounds."""

    def count(self, what: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[what] = self.counts.get(what, 0) + number


class Journal:
    """An open journal; one process at a time."""

    def __init__(self, path: Path, settings: str) -> None:
        """Open or make the journal, in a folder that is there, and read what it holds.

        ``settings`` is a digest of what decides how a passage is worked on; passages that were finished under another
        one are worked on again, with the replies that fit. A file that is no journal, or in use, is a `ClaraError`.
        """
        self.path, self.settings = path, settings
        self.spent = Spent()
        self._replies: dict[str, dict[str, Reply]] = {}
        self._finished: dict[str, int] = {}
        self._failures: dict[str, list[str]] = {}
        self._unanswered: set[str] = set()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file)
        os.close(self._file)

    def reply(self, passage: str, key: str) -> Reply | None:
        """The reply to a request that has been asked before."""
        return self._replies.get(passage, {}).get(key)

    def add_question(self, passage: str, key: str) -> None:
        """Keep that a request is about to be sent: one that a kill leaves without a reply may be paid for."""
        self._write({"asked": key, "passage": passage})

    @property
    def unanswered(self) -> int:
        """Requests that were sent and have no reply."""
        return len(self._unanswered)

    def add_failure(self, passage: str, why: str) -> None:
        """Keep that a passage failed."""
        self._write({"failed": passage, "why": why})

    def failures(self, passage: str) -> list[str]:
        """Why a passage failed, each time."""
        return self._failures.get(passage, [])

    def add_reply(self, passage: str, key: str, reply: Reply) -> None:
        """Keep a reply for good."""
        tokens = [reply.prompt_tokens, reply.completion_tokens]
        self._write({"passage": passage, "key": key, "reply": reply.text, "cut_off": reply.cut_off, "tokens": tokens})

    def is_finished(self, passage: str) -> bool:
        """Whether the passage has its outcome."""
        return passage in self._finished

    def finish(self, passage: str, outcome: Outcome) -> None:
        """Keep a passage's outcome for good."""
        self._write({"finished": passage, "settings": self.settings, **asdict(outcome)})

    def outcome(self, passage: str) -> Outcome:
        """The outcome of a finished passage, read from the file."""
        with self.path.open("rb") as file:
            file.seek(self._finished[passage])
            values = json.loads(file.readline())
        return Outcome(rows=values["rows"], dropped=values["dropped"], counts=values["counts"])

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ClaraError(f"{self.path} is in use by another run; wait for it or give another --journal") from None

    def _write(self, values: dict[str, Any]) -> None:
        self._take(values, self._append(values))

    def _append(self, values: dict[str, Any]) -> int:
        line = json.dumps(values, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        start = os.lseek(self._file, 0, os.SEEK_END)
        if os.write(self._file, line) != len(line):
            os.ftruncate(self._file, start)
            raise OSError(f"{self.path} could not be written to its end; is the disk full? Run again to go on")
        return start

    def _read(self) -> None:
        end = 0
        for number, (start, line) in enumerate(self._lines(), start=1):
            try:
                values = json.loads(line)
                if number == 1 and values != _HEADER:
                    raise ValueError(values)
                if number > 1:
                    self._take(values, start)
            except (ValueError, KeyError, TypeError) as error:
                raise ClaraError(self._what_is_wrong(number)) from error
            end = start + len(line)
        os.ftruncate(self._file, end)  # a line torn by a kill
        if end == 0:
            self._append(_HEADER)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        start = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield start, line
                elif start == 0 and not json.dumps(_HEADER).encode().startswith(line):
                    raise ClaraError(self._what_is_wrong(1))
                start += len(line)

    def _what_is_wrong(self, number: int) -> str:
        if number == 1:
            return f"{self.path} is not a journal of this command; give another --journal"
        return f"{self.path}:{number} is damaged; delete the line and run again"

    def _take(self, values: dict[str, Any], start: int) -> None:
        """Remember what a line says, which begins at a byte of the file."""
        if "finished" in values:
            if values["settings"] == self.settings:
                self._finished[values["finished"]] = start
                self._replies.pop(values["finished"], None)
        elif "failed" in values:
            self._failures.setdefault(values["failed"], []).append(values["why"])
        elif "asked" in values:
            self._unanswered.add(values["asked"])
        else:
            text, cut_off, (read, written) = values["reply"], values["cut_off"], values["tokens"]
            reply = Reply(text=text, cut_off=cut_off, prompt_tokens=read, completion_tokens=written)
            self.spent.add(reply)
            self._unanswered.discard(values["key"])
            self._replies.setdefault(values["passage"], {})[values["key"]] = reply

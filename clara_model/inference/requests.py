"""What `Clara` is asked for, checked, and how it is done step by step: answers from documents, and the base alone.

A request is run at once or in a stream's thread; both run the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clara_model.inference.engine import Call, Engine
from clara_model.inference.pipeline import Encoded, Written
from clara_model.inference.results import Answer, Ranked, Usage
from clara_model.inference.streaming import Feed, TextPieces
from clara_model.latents import Latents
from clara_model.validation import Generation


@dataclass(frozen=True)
class AnswerRequest:
    """Questions, each with its candidates."""

    questions: Sequence[str]
    rows: Sequence[list[str] | Latents]
    """One and the same object where questions share their candidates."""
    top_k: int
    rerank: bool
    """Whether to rank the candidates; otherwise the first are read."""
    how: Generation

    def run(self, call: Call) -> list[Answer]:
        """Compress, rank, select and answer."""
        rows = call.candidates(self.rows)
        rankings: list[list[Ranked]] = call.rank(self.questions, rows) if self.rerank else [[] for _ in rows]
        selected = [
            [one.index for one in ranking[: self.top_k]] if self.rerank else list(range(min(self.top_k, len(row))))
            for ranking, row in zip(rankings, rows, strict=True)
        ]
        latents = [row.pick(chosen) for row, chosen in zip(rows, selected, strict=True)]
        written = call.answer(self.questions, latents, self.how)
        timings = call.timings(len(self.questions))
        return [
            Answer(one.text, ranking, chosen, _usage(one, used), timings, one.finish_reason)
            for one, ranking, chosen, used in zip(written, rankings, selected, latents, strict=True)
        ]


@dataclass(frozen=True)
class PlainRequest:
    """A prompt of plain ids for the base model alone."""

    ids: list[int]
    how: Generation

    def run(self, call: Call) -> list[Answer]:
        """Generate; one answer."""
        one = call.write([self.ids], None, self.how)[0]
        usage = Usage(prompt_tokens=one.prompt_tokens, completion_tokens=one.completion_tokens)
        return [Answer(one.text, [], [], usage, call.timings(), one.finish_reason)]


def stream(feed: Feed, engine: Engine, request: AnswerRequest | PlainRequest) -> Answer:
    """Run a request of one answer; what it writes goes to ``feed`` piece by piece."""
    feed.pieces = TextPieces(engine.model.tokens.decode, request.how.stop)
    answer = request.run(engine.call(feed))[0]
    feed.finish(answer.text)
    return answer


def _usage(one: Written, used: Encoded) -> Usage:
    slots = used.vectors.shape[0] * used.vectors.shape[1]
    return Usage(sum(used.lengths), slots, one.prompt_tokens, one.completion_tokens)

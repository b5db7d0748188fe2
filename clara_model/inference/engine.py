"""What `Clara` is made of: locked, batched, cached passes through one loaded model.

Takes checked arguments only. Every pass holds the model's lock; between two batches others get their turn.
Leaves out the checks (`clara_model.validation`) and what is offered to users (`inference.clara`).
Shapes: ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from clara_model.inference.batching import plan_batches, run_batches
from clara_model.inference.loader import Loaded
from clara_model.inference.results import Ranked, Timings
from clara_model.inference.streaming import Feed
from clara_model.latents import Latents
from clara_model.modeling.model import ClaraModel
from clara_model.store.memory import Block, content_key
from clara_model.validation import Generation

BATCH_TOKENS = {"cuda": 16384, "cpu": 2048}
"""Positions in one encoder batch, padding included; on a processor, more than fits its caches is slower."""
GENERATE_TOKENS = 16384
"""Positions in one generating batch, new tokens included."""


@dataclass
class Work:
    """One call: the seconds of its phases, and where its text goes if it is streamed."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    feed: Feed | None = None

    def check(self) -> None:
        """End the call here if nobody reads its stream any more."""
        if self.feed is not None:
            self.feed.check()

    def timings(self, share: int = 1) -> Timings:
        """Of one of ``share`` questions."""
        return Timings(**{phase: value / share for phase, value in self.seconds.items()})


@dataclass(frozen=True)
class Candidates:
    """The documents of one question: distinct blocks, and for each document the place of its block."""

    blocks: Latents
    places: list[int]

    def pick(self, selected: Sequence[int]) -> Latents:
        """The latents of some documents."""
        return self.blocks[[self.places[index] for index in selected]]


@dataclass(frozen=True)
class Written:
    """What was generated for one prompt."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


class Engine:
    """Passes through one loaded model on behalf of many threads."""

    def __init__(self, loaded: Loaded, batch_tokens: int | None, batch_size: int | None) -> None:
        """``batch_tokens`` and ``batch_size`` bound a batch; `BATCH_TOKENS` and no bound where not given."""
        self.loaded = loaded
        self.model: ClaraModel = loaded.model
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(self.model.device.type, BATCH_TOKENS["cuda"])
        self.batch_size = batch_size

    @contextmanager
    def turn(self, work: Work, phase: str) -> Iterator[ClaraModel]:
        """Hold the model's lock and count the time; a stream that nobody reads any more ends here."""
        lock = self.loaded.lock
        work.check()
        while not lock.acquire(timeout=-1 if work.feed is None else 0.2):
            work.check()
        start = time.perf_counter()
        try:
            yield self.model
        finally:
            work.seconds[phase] += time.perf_counter() - start
            lock.release()

    # -- encode ------------------------------------------------------------------------------------------------

    def compress(self, texts: Sequence[str], work: Work) -> Candidates:
        """Each distinct text once, in order of first appearance, through the store."""
        keys = [content_key(text) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        order = {key: place for place, key in enumerate(distinct)}
        return Candidates(self._stacked(self._blocks(distinct, work)), [order[key] for key in keys])

    def queries(self, questions: Sequence[str], work: Work) -> Latents:
        """The latents of questions, in batches; not kept."""
        made: dict[int, Block] = {}

        def make(part: Sequence[int], rows: Sequence[list[int]]) -> None:
            with self.turn(work, "query"):
                made.update(zip(part, self._encode("query_reasoner", rows), strict=True))

        self._in_batches(questions, make, "question", work)
        return self._stacked([made[index] for index in range(len(questions))])

    def candidates(self, rows: Sequence[list[str] | Latents], work: Work) -> list[Candidates]:
        """The candidates of each question; what several questions offer is compressed once."""
        distinct = {id(row): row for row in rows}
        texts = [text for row in distinct.values() if not isinstance(row, Latents) for text in row]
        offered = self.compress(texts, work) if texts else None
        found: dict[int, Candidates] = {}
        start = 0
        for key, row in distinct.items():
            if isinstance(row, Latents):
                self.model.check_latents(row)
                found[key] = Candidates(row, list(range(len(row))))
            elif offered is not None:
                found[key] = _part(offered, offered.places[start : start + len(row)])
                start += len(row)
        return [found[id(row)] for row in rows]

    def _blocks(self, texts: Mapping[str, str], work: Work) -> list[Block]:
        """The block of each text by key: from the store, or made now and kept there."""
        store, fingerprint, keys = self.loaded.store, self.model.fingerprint, list(texts)

        def stored(wanted: Sequence[str]) -> dict[str, Block]:
            found = zip(wanted, store.get(fingerprint, wanted), strict=True)
            return {key: block for key, block in found if block is not None}

        blocks = stored(keys)
        missing = [key for key in keys if key not in blocks]

        def make(part: Sequence[int], rows: Sequence[list[int]]) -> None:
            ids = dict(zip([missing[index] for index in part], rows, strict=True))
            with self.turn(work, "compress"):
                blocks.update(stored(list(ids)))  # another thread may have made them while this one waited
                todo = [key for key in ids if key not in blocks]
                if todo:
                    made = dict(zip(todo, self._encode("compressor", [ids[key] for key in todo]), strict=True))
                    blocks.update(made)
                    store.put(fingerprint, made)

        self._in_batches([texts[key] for key in missing], make, "document", work)
        return [blocks[key] for key in keys]

    def _in_batches(
        self,
        texts: Sequence[str],
        make: Callable[[Sequence[int], Sequence[list[int]]], None],
        what: str,
        work: Work,
    ) -> None:
        """Call ``make`` with the indices and the ids of texts that belong in one batch."""
        if not texts:
            return
        with self.turn(work, "query" if what == "question" else "compress") as model:
            ids = [model.tokens.document_ids(text) for text in texts]
        batches = plan_batches([len(row) for row in ids], self.batch_tokens, self.batch_size)
        run_batches(batches, lambda part: make(part, [ids[index] for index in part]), what)

    def _encode(self, role: str, rows: Sequence[list[int]]) -> list[Block]:
        """One batch through the model; the lock is held."""
        latents = self.model.encode_tokens(role, self.model.tokens.padded(rows))
        vectors = latents.vectors.to("cpu")
        return [Block(vector.clone(), length) for vector, length in zip(vectors, latents.lengths, strict=True)]

    def _stacked(self, blocks: Sequence[Block]) -> Latents:
        vectors_NMD = torch.stack([block.vector for block in blocks])
        return Latents(vectors_NMD, tuple(block.length for block in blocks), self.model.fingerprint)

    # -- rank and generate -------------------------------------------------------------------------------------

    def ranked(self, questions: Sequence[str], rows: Sequence[Candidates], work: Work) -> list[list[Ranked]]:
        """Each question's candidates, best first. Equal texts have one block, so their scores are equal to the bit."""
        queries = self.queries(questions, work)
        start = time.perf_counter()
        rankings: dict[int, list[Ranked]] = {}
        for row in {id(row): row for row in rows}.values():
            asking = [index for index, other in enumerate(rows) if other is row]
            scores_BK = self.model.score(queries[asking], row.blocks).tolist()
            for index, scores in zip(asking, scores_BK, strict=True):
                ranked = [Ranked(number, scores[place]) for number, place in enumerate(row.places)]
                rankings[index] = sorted(ranked, key=lambda candidate: -candidate.score)
        work.seconds["rank"] += time.perf_counter() - start
        return [rankings[index] for index in range(len(rows))]

    def generate(
        self, prompts: Sequence[list[int]], latents: Sequence[Latents] | None, how: Generation, work: Work
    ) -> list[Written]:
        """Generate for each prompt, in batches; without latents by the base model alone."""
        written: dict[int, Written] = {}

        def make(part: Sequence[int]) -> None:
            rows, options = [prompts[index] for index in part], {**how.arguments(), "streamer": work.feed}
            with self.turn(work, "generate") as model, how.seeded(model.device):
                if latents is None:
                    made = model.generate_plain(rows, **options)
                else:
                    made = model.generate_ids(rows, [latents[index].vectors for index in part], **options)
            each = map(Written, made.texts, made.prompt_tokens, made.completion_tokens, made.finish_reasons)
            written.update(zip(part, each, strict=True))

        lengths = [len(prompt) + how.max_new_tokens for prompt in prompts]
        run_batches(plan_batches(lengths, GENERATE_TOKENS, self.batch_size), make, "prompt")
        return [written[index] for index in range(len(prompts))]


def _part(offered: Candidates, places: list[int]) -> Candidates:
    """Some of the documents, with no block that is not theirs."""
    order = {place: number for number, place in enumerate(dict.fromkeys(places))}
    blocks = offered.blocks if len(order) == len(offered.blocks) else offered.blocks[list(order)]
    if blocks is offered.blocks:
        return Candidates(blocks, places)
    return Candidates(blocks, [order[place] for place in places])

"""What `Clara` adds to the pipeline: the model's lock, the store of latents, the seconds of each phase, streams.

Takes checked arguments only. Every pass holds the model's lock; between two batches others get their turn. Neither the
store nor the tokenizer is asked under it. Leaves out the checks (`clara_model.validation`), what is asked
(`inference.requests`) and what is offered to users (`inference.clara`).
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch

from clara_model.inference import pipeline
from clara_model.inference.background import Background
from clara_model.inference.fair_lock import PATIENCE
from clara_model.inference.gathering import Job, may_gather
from clara_model.inference.loader import Loaded
from clara_model.inference.pipeline import Candidates, Encoded, Limits, Written
from clara_model.inference.published import ClaraModel
from clara_model.inference.results import Ranked, Timings
from clara_model.inference.splitting import Reader, warn_of_cuts
from clara_model.inference.streaming import Feed
from clara_model.latents import Latents
from clara_model.store.cache import Block, LatentStore, content_key, durable
from clara_model.validation import Cold, Generation, LongDocuments
from clara_model.windows import Window

CLAIMED = 512
"""Texts that one call makes between two looks at what others have made; another thread waits for no more than these."""
_LATER = 16
"""Texts in one pass in the background on a GPU; on a CPU one, since there a text is a pass of its own anyway."""


@dataclass(frozen=True, eq=False)
class Engine:
    """A loaded model with the store and the limits of one `Clara`."""

    loaded: Loaded
    store: LatentStore
    limits: Limits
    long_documents: LongDocuments = "split"
    cold: Cold = "compress"

    @property
    def text_first(self) -> bool:
        """Whether questions may be answered from text; never where compressing takes no pass of the base model."""
        return self.cold == "text" and not self.model.residuals.at_rest("compressor")

    @cached_property
    def background(self) -> Background:
        """Where texts are compressed after an answer from text."""
        at_once = 1 if self.model.device.type == "cpu" else _LATER
        lasting = durable(self.store) is not None
        return Background(at_once, lasting=lasting)

    @cached_property
    def reader(self) -> Reader:
        """Where texts are split."""
        return Reader(self.model.tokens)

    @property
    def model(self) -> ClaraModel:
        """The model itself."""
        return self.loaded.model

    def call(self, feed: Feed | None = None) -> Call:
        """A new call; ``feed`` is where its text goes if it is streamed."""
        self.background.touch()
        return Call(self, feed)


class Call:
    """One call of a user: the pipeline's steps under the model's lock, through the store, with their seconds."""

    def __init__(self, engine: Engine, feed: Feed | None = None) -> None:
        """Nothing has been spent yet."""
        self.model, self._loaded = engine.model, engine.loaded
        self._store, self._limits = engine.store, engine.limits
        self._reader, self._long_documents = engine.reader, engine.long_documents
        self._engine = engine
        self._feed = feed
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def timings(self, share: int = 1) -> Timings:
        """Of one of ``share`` questions."""
        return Timings(**{phase: value / share for phase, value in self._seconds.items()})

    @contextmanager
    def turn(self, phase: str) -> Iterator[None]:
        """Hold the model's lock and count the time; a stream without a reader ends here."""
        self._check()
        self._loaded.lock.acquire(check=None if self._feed is None else self._check)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - start
            self._loaded.lock.release()

    def _check(self) -> None:
        """End the call here if its stream has no reader any more."""
        if self._feed is not None:
            self._feed.check()

    # -- the pipeline's steps ----------------------------------------------------------------------------------

    def compress(self, texts: Sequence[str]) -> Encoded:
        """The latents of distinct texts: from the store, or made now and kept there."""
        keys = [content_key(text) for text in texts]
        fingerprint = self.model.fingerprint
        blocks = dict(zip(keys, self._store.get(fingerprint, keys), strict=True))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if blocks[key] is None}
        while missing:
            part = dict(list(missing.items())[:CLAIMED])
            blocks |= self._made(fingerprint, part)
            missing = {key: text for key, text in missing.items() if blocks[key] is None}
        if self._engine.text_first:
            self._engine.background.settled(texts)
        found = [block for key in keys if (block := blocks[key]) is not None]
        lengths = tuple(block.length for block in found)
        if self._long_documents == "truncate":
            warn_of_cuts(self.model.tokens, texts, lengths)
        return Encoded(torch.stack([block.vector for block in found]), lengths)

    def queries(self, questions: Sequence[str]) -> Encoded:
        """The latents of questions; not kept."""
        made = pipeline.encode(self.model, "query_reasoner", questions, "question", self._limits, self.turn)
        warn_of_cuts(self.model.tokens, questions, made.lengths, "question")
        return made

    def candidates(self, rows: Sequence[list[str] | Latents]) -> list[Candidates]:
        """The candidates of each question, long ones in windows; what several questions offer is compressed once."""
        given: dict[int, list[str] | Latents] = {id(row): row for row in rows}
        read = {key: self.windows(row) for key, row in given.items() if not isinstance(row, Latents)}
        place = pipeline.distinct(texts for texts, _ in read.values())
        blocks = self.compress(list(place)) if place else None
        made: dict[int, Candidates] = {}
        for key, row in given.items():
            if isinstance(row, Latents):
                self.model.check_latents(row)
                made[key] = Candidates(Encoded(row.vectors, row.lengths), range(len(row)), row.windows)
            elif blocks is not None:
                texts, windows = read[key]
                made[key] = Candidates(blocks, [place[text] for text in texts], windows)
        return [made[id(row)] for row in rows]

    def windows(self, documents: list[str]) -> tuple[list[str], list[Window] | None]:
        """The texts that are read of some documents, and their windows if they are not the documents themselves."""
        windows = self._reader.windows(documents, self._long_documents)
        if all(window.whole for window in windows):
            return documents, None
        return [documents[window.document][window.start : window.end] for window in windows], windows

    # -- without latents ---------------------------------------------------------------------------------------

    def missing(self, texts: Sequence[str], k: int) -> list[str]:
        """The texts without latents, where a question does without them (`Engine.text_first`): at least ``k`` missing.

        Compressing fewer than are read costs less than reading them.
        """
        if not self._engine.text_first:
            return []
        distinct = list(dict.fromkeys(texts))
        found = self._store.get(self.model.fingerprint, [content_key(text) for text in distinct])
        missing = [text for text, block in zip(distinct, found, strict=True) if block is None]
        return missing if len(missing) >= min(k, len(distinct)) and not self._engine.background.due(missing) else []

    def later(self, texts: Sequence[str], *, answered: bool) -> None:
        """Have texts compressed when nobody asks for anything; ``answered`` as for `Background.add`."""
        if texts:
            self._engine.background.touch()
            self._engine.background.add(texts, Call(self._engine).compress, answered=answered)

    def read_part(self, text: str) -> str:
        """What is read of a window: all of it, or its start where long texts are cut."""
        return text[: self.model.tokens.reach(text)] if self._long_documents == "truncate" else text

    def rank(self, questions: Sequence[str], rows: Sequence[Candidates]) -> list[list[Ranked]]:
        """The windows of each question's candidates, best first."""
        queries = self.queries(questions)
        start = time.perf_counter()
        ranked = pipeline.rank(queries.vectors, rows, self.model.config.ranking)
        self._seconds["rank"] += time.perf_counter() - start
        return ranked

    def answer(self, questions: Sequence[str], selected: Sequence[Encoded], how: Generation) -> list[Written]:
        """Answer each question from its selected latents."""
        return self.write(pipeline.answer_prompts(self.model, questions, selected), selected, how)

    def write(self, prompts: Sequence[list[int]], selected: Sequence[Encoded] | None, how: Generation) -> list[Written]:
        """Generate for each prompt; without latents by the base model alone."""
        blocks = None if selected is None else [part.vectors for part in selected]
        job = Job(prompts, blocks, how)
        small = job.positions() * len(prompts) <= pipeline.GENERATE_TOKENS
        if self._feed is None and small and may_gather(self.model, how):
            return self._gathered(job)
        return pipeline.write(self.model, prompts, blocks, how, self._limits, self.turn, self._feed)

    def _gathered(self, job: Job) -> list[Written]:
        """Wait for the model together with others; whoever gets it first writes for all."""
        gathering = self._loaded.gathering
        gathering.wait(job)
        group: list[Job] = []
        try:
            while job.written is None:
                with self.turn("generate"):
                    group = gathering.take(job, pipeline.GENERATE_TOKENS, self._limits.items)
                    if group:
                        self._write_for(group)
        finally:
            gathering.leave(job)
        if not group:  # another caller's turn
            self._seconds["generate"] += job.seconds
        return job.written

    def _write_for(self, group: list[Job]) -> None:
        """One batch for several jobs, the caller's own first."""
        own, start = group[0], time.perf_counter()
        prompts = [prompt for job in group for prompt in job.prompts]
        blocks = None if own.blocks is None else [block for job in group for block in job.blocks or ()]
        try:
            written = pipeline.write(self.model, prompts, blocks, own.how, self._limits)
        except BaseException as error:
            self._loaded.gathering.give_back(group[1:])
            if len(group) == 1 or not isinstance(error, Exception):
                raise
            self._loaded.gathering.give_back(group[:1])
            return
        seconds, rest = time.perf_counter() - start, iter(written)
        for job in group:
            job.seconds, job.written = seconds, list(itertools.islice(rest, len(job.prompts)))

    # -- making blocks -----------------------------------------------------------------------------------------

    def _made(self, fingerprint: str, texts: dict[str, str]) -> dict[str, Block | None]:
        """The block of each text by key, made here or by another thread; None where the other thread gave up."""
        underway = self._loaded.underway
        way = f"{fingerprint} alone" if self._limits.alone else fingerprint  # a store takes nothing out of a batch
        claimed, others = underway.claim((way, key) for key in texts)
        mine = [key for _, key in claimed]
        try:
            # once more, because another thread may have kept some between the look at the store and the claim
            found = dict(zip(mine, self._store.get(fingerprint, mine), strict=True))
            underway.settle({(way, key): block for key, block in found.items() if block is not None})
            for part in self._encoded({key: texts[key] for key in mine if found[key] is None}):
                self._store.put(fingerprint, part)
                underway.settle({(way, key): block for key, block in part.items()})
                found |= part
        finally:
            underway.release(claimed)
        theirs = {key: self._awaited(result) for (_, key), result in others.items()}
        self._store.put(fingerprint, {key: block for key, block in theirs.items() if block is not None})
        return found | theirs

    def _encoded(self, texts: dict[str, str]) -> Iterator[dict[str, Block]]:
        """Blocks by key, batch by batch."""
        keys, kept = list(texts), list(texts.values())
        batches = pipeline.encode_batches(self.model, "compressor", kept, "document", self._limits, self.turn)
        for places, made in batches:
            vectors = (vector.clone() for vector in made.vectors)
            blocks = map(Block, vectors, made.lengths, (kept[place] for place in places))
            yield {keys[place]: block for place, block in zip(places, blocks, strict=True)}

    def _awaited(self, result: Future[Block | None]) -> Block | None:
        """What another thread makes."""
        while True:
            self._check()
            try:
                return result.result(timeout=None if self._feed is None else PATIENCE)
            except NotYet:
                continue

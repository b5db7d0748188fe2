"""What `Clara` adds to the pipeline: the model's scheduler, the store of latents, the seconds of each phase, streams.

Takes checked arguments only. Every pass is run by the scheduler; the store and the tokenizer are asked in the caller's
thread. Leaves out the checks (`clara_model.validation`), what is asked (`inference.requests`) and what is offered to
users (`inference.clara`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from clara_model.inference import pipeline
from clara_model.inference.loader import Loaded
from clara_model.inference.pipeline import Candidates, Check, Encoded, Limits, Pass, Written
from clara_model.inference.published import ClaraModel
from clara_model.inference.results import Ranked, Timings
from clara_model.inference.scheduler import Background, Share, wait_for
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


class Engine:
    """A loaded model with the store and the limits of one `Clara`."""

    def __init__(
        self, loaded: Loaded, store: LatentStore, limits: Limits, long_documents: LongDocuments, cold: Cold
    ) -> None:
        self.loaded, self.model, self.scheduler = loaded, loaded.model, loaded.scheduler
        self.store, self.limits, self.long_documents, self._cold = store, limits, long_documents, cold
        self.reader = Reader(self.model.tokens)
        at_once = 1 if self.model.device.type == "cpu" else _LATER
        self.background = Background(self.scheduler, at_once, lasting=durable(store) is not None)

    @property
    def text_first(self) -> bool:
        """Whether questions may be answered from text; never where compressing takes no pass of the base model."""
        return self._cold == "text" and not self.model.residuals.at_rest("compressor")

    def call(self, feed: Feed | None = None) -> Call:
        """A new call; ``feed`` is where its text goes if it is streamed."""
        self.scheduler.touch()
        return Call(self, feed)


class Call:
    """One call of a user: the pipeline's steps by the scheduler, through the store, with their seconds."""

    def __init__(self, engine: Engine, feed: Feed | None = None) -> None:
        self.model, self._scheduler = engine.model, engine.scheduler
        self._store, self._limits = engine.store, engine.limits
        self._reader, self._long_documents = engine.reader, engine.long_documents
        self._engine = engine
        self._feed = feed
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def timings(self, share: int = 1) -> Timings:
        """Of one of ``share`` questions."""
        return Timings(**{phase: value / share for phase, value in self._seconds.items()})

    def run(self, phase: str, work: Pass, items: list[Any], share: Share | None = None) -> Any:
        """Have a pass done and count its time; a stream without a reader ends here."""
        check = None if self._feed is None else self._feed.check
        if check is not None:
            check()
        made, seconds = self._scheduler.run(work, items, share, check)
        self._seconds[phase] += seconds
        return made

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
        made = pipeline.encode(self.model, "query_reasoner", questions, "question", self._limits, self.run)
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
            self._scheduler.touch()
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
        width = max(map(len, prompts)) + how.max_new_tokens
        small = width * len(prompts) <= pipeline.GENERATE_TOKENS
        if self._feed is not None or not small or not may_share(self.model, how):
            return pipeline.write(self.model, prompts, blocks, how, self._limits, self.run, self._feed)
        like = blocks is None, how, self._limits.items
        share = Share(like, width, pipeline.GENERATE_TOKENS, self._limits.items)
        items = [(ids, blocks and blocks[number]) for number, ids in enumerate(prompts)]
        made: list[Written] = self.run("generate", partial(_write, self.model, how, self._limits), items, share)
        return made

    # -- making blocks -----------------------------------------------------------------------------------------

    def _made(self, fingerprint: str, texts: dict[str, str]) -> dict[str, Block | None]:
        """The block of each text by key, made here or by another thread; None where the other thread gave up."""
        way = f"{fingerprint} alone" if self._limits.alone else fingerprint  # a store takes nothing out of a batch
        with self._scheduler.making((way, key) for key in texts) as (mine, others):
            # once more, because another thread may have kept some between the look at the store and here
            keys = [key for _, key in mine]
            found = dict(zip(keys, self._store.get(fingerprint, keys), strict=True))
            missing = {key: texts[key] for key in keys if found[key] is None}
            for key, block in found.items():
                if block is not None:
                    mine[way, key].set_result(block)
            for part in self._encoded(missing):
                self._store.put(fingerprint, part)
                for key, block in part.items():
                    mine[way, key].set_result(block)
                found |= part
        check = None if self._feed is None else self._feed.check
        theirs = {key: wait_for(made, check) for (_, key), made in others.items()}
        self._store.put(fingerprint, {key: block for key, block in theirs.items() if block is not None})
        return found | theirs

    def _encoded(self, texts: dict[str, str]) -> Iterator[dict[str, Block]]:
        """Blocks by key, batch by batch."""
        keys, kept = list(texts), list(texts.values())
        batches = pipeline.encode_batches(self.model, "compressor", kept, "document", self._limits, self.run)
        for places, made in batches:
            vectors = (vector.clone() for vector in made.vectors)
            blocks = map(Block, vectors, made.lengths, (kept[place] for place in places))
            yield {keys[place]: block for place, block in zip(places, blocks, strict=True)}


def _write(model: ClaraModel, how: Generation, limits: Limits, items: list[Any], check: Check | None) -> list[Written]:
    """For several callers in the owner's thread: smaller batches where memory ends."""
    prompts, blocks = [ids for ids, _ in items], [block for _, block in items if block is not None]
    return pipeline.write(model, prompts, blocks or None, how, limits, lambda _, work, some: work(some, check))


def may_share(model: ClaraModel, how: Generation) -> bool:
    """Whether an answer may share a batch with other callers' answers.

    On a CPU in half precision rounding depends on the batch, and an answer must not depend on who else is asking; on a
    GPU it does in any case (kernels choose their order of summation by shape).
    """
    exact = model.device.type != "cpu" or model.base.dtype in (torch.float32, torch.float64)
    return exact and not how.sampling.get("do_sample")

"""What `Clara` adds to the pipeline: texts split and hashed, the store of latents, the model's scheduler, streams.

Takes checked arguments only. Every pass is run by the scheduler; the store and the tokenizer are asked in the caller's
thread. Leaves out the checks (`clara_model.validation`), what is asked (`inference.requests`) and what is offered to
users (`inference.clara`).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clara_model.checkpoint.options import ClaraOptions, LongDocuments
from clara_model.engines.protocol import Engine
from clara_model.errors import ClaraError
from clara_model.inference import pipeline
from clara_model.inference.loader import Loaded
from clara_model.inference.pipeline import Candidates, Check, Encoded, Limits, Run, Written, warn_of_cuts
from clara_model.inference.published import ClaraModel
from clara_model.inference.results import Ranked, Timings
from clara_model.inference.scheduler import Background, Passes, Share, wait_for
from clara_model.inference.streaming import Feed
from clara_model.latents import Latents
from clara_model.modeling.tokens import Tokens
from clara_model.search.store_search import StoreSearch
from clara_model.store.cache import Block, LatentCache, durable, layered
from clara_model.validation import Generation
from clara_model.windows import SplitText, Window, content_key

CLAIMED = 512
"""Texts that one call makes between two looks at what others have made; another thread waits for no more than these."""
REMEMBERED = 50_000
"""Texts of which it is remembered where they were split."""
_LATER = 16
"""Texts in one pass in the background on a GPU; on a CPU one, since there a text is a pass of its own anyway."""


class Splitter:
    """Texts hashed and read in windows, by their start alone, or not at all (``long_documents``). Thread-safe.

    Where a text was split is remembered, so that it is not tokenised again.
    """

    def __init__(self, tokens: Tokens, long_documents: LongDocuments) -> None:
        self._tokens, self._long_documents = tokens, long_documents
        self.known: dict[str, SplitText] = {}
        """Texts that were windows of others, and so are neither hashed nor split again."""
        self._windows: OrderedDict[str, tuple[Window, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def split(self, texts: Sequence[str]) -> list[SplitText]:
        """What is read of some texts: each whole, or in windows one after the other.

        Raises:
            ClaraError: a long text where ``long_documents`` is ``error``.
        """
        found: dict[str, SplitText] = {}
        for number, text in enumerate(texts, start=1):
            if text in found or text in self.known:
                found[text] = found.get(text) or self.known[text]
                continue
            key = content_key(text)
            windows = (Window(key),) if self._long_documents == "truncate" else self._remembered(text, key)
            if len(windows) > 1 and self._long_documents == "error":
                raise ClaraError(
                    f"document {number} of {len(texts)} ({text[:40]!r}) has more than the "
                    f"{self._tokens.config.doc_max_length} tokens that the checkpoint reads at once; split it, or ask "
                    "for long_documents='split' or 'truncate'"
                )
            found[text] = SplitText(text, key, windows)
        return [found[text] for text in texts]

    def _remembered(self, text: str, key: str) -> tuple[Window, ...]:
        with self._lock:
            found = self._windows.get(key)
            if found is not None:
                self._windows.move_to_end(key)
                return found
        places = self._tokens.windows(text)
        if len(places) == 1:
            found = (Window(key),)
        else:
            numbered = enumerate(places)
            found = tuple(Window(content_key(text[start:end]), start, end, number=n) for n, (start, end) in numbered)
        with self._lock:
            self._windows[key] = found
            if len(self._windows) > REMEMBERED:
                self._windows.popitem(last=False)
        return found


class Shared:
    """What the calls of one `Clara` share: a loaded model, the store and the limits."""

    def __init__(self, loaded: Loaded, cache: LatentCache, options: ClaraOptions) -> None:
        """Look for the engine and open the store; the options are checked."""
        self.loaded, self.model, self.scheduler = loaded, loaded.model, loaded.scheduler
        self.engine = _engine(self.model, options)
        self.store = layered(options.store, cache, self.model.fingerprint)
        lasting = durable(self.store)
        self._opened = lasting if isinstance(options.store, (str, Path)) else None
        outlives = options.store is not None and not isinstance(options.store, LatentCache)
        self.limits = Limits(options.batch_tokens, options.batch_size, one_text_per_pass=outlives)
        self.cuts, self._cold = options.long_documents == "truncate", options.cold
        self.splitter = Splitter(self.model.tokens, options.long_documents)
        config, hybrid = self.model.config, options.ranking == "hybrid"
        self.word_weight = 0.0 if options.ranking == "latents" else config.word_weight or float(hybrid)
        """What shared words add to a candidate's score; 0 for nothing."""
        self.search = None if lasting is None else StoreSearch(lasting, config.ranking, self.word_weight)
        self.expand = config.expand if options.expand is None else options.expand
        """Windows that are read as text, where their texts are known."""
        at_once = 1 if self.model.device.type == "cpu" else _LATER
        self.background = Background(self.scheduler, at_once, lasting=lasting is not None)

    def close(self) -> None:
        """Finish what is compressed in the background, and close what was opened here."""
        self.background.close()
        if self.engine is not None:
            self.engine.close()
        if self.search is not None:
            self.search.close()
        if self._opened is not None:
            self._opened.close()

    @property
    def text_first(self) -> bool:
        """Whether questions may be answered from text; never where compressing takes no pass of the base model."""
        return self._cold == "text" and not self.model.residuals.skips_base_model("compressor")


class Call:
    """One call of a user: the pipeline's steps by the scheduler, through the store, with their seconds."""

    def __init__(self, shared: Shared, feed: Feed | None = None) -> None:
        """``feed`` is where its text goes if it is streamed."""
        self.model, self.shared = shared.model, shared
        self._scheduler, self._store, self._limits = shared.scheduler, shared.store, shared.limits
        self._feed, self._check = feed, None if feed is None else feed.check
        self._run = Passes(shared.scheduler, self._check)
        self._split: dict[int, list[SplitText]] = {}
        self._scheduler.touch()

    def timings(self, share: int = 1) -> Timings:
        """Of one of ``share`` questions."""
        return Timings(**{phase: value / share for phase, value in self._run.seconds.items()})

    # -- the pipeline's steps ----------------------------------------------------------------------------------

    def documents(self, texts: list[str]) -> list[SplitText]:
        """The candidates of a question, hashed and split once in a call."""
        if id(texts) not in self._split:
            self._split[id(texts)] = self.shared.splitter.split(texts)
        return self._split[id(texts)]

    def compress(self, texts: Mapping[str, str]) -> Encoded:
        """The latents of texts by their content keys: from the store, or made now and kept there."""
        keys, fingerprint, seen = list(texts), self.model.fingerprint, self._scheduler.made
        blocks = dict(zip(keys, self._store.get(fingerprint, keys), strict=True))
        while missing := [key for key in keys if blocks[key] is None]:
            blocks |= self._made(fingerprint, {key: texts[key] for key in missing[:CLAIMED]}, seen)
        if self.shared.text_first:
            self.shared.background.settled(texts.items())
        found = [block for block in blocks.values() if block is not None]
        lengths = tuple(block.length for block in found)
        if self.shared.cuts:
            warn_of_cuts(self.model.tokens, list(texts.values()), lengths)
        return Encoded(torch.stack([block.vector for block in found]), lengths)

    def latents(self, texts: Mapping[str, str]) -> Latents:
        """`compress` for texts that were split before: each a document of its own, by its content key."""
        made, shown = self.compress(texts), tuple(map(self.read_part, texts.values()))
        return Latents(made.vectors, made.lengths, self.model.fingerprint, texts=shown)

    def queries(self, questions: Sequence[str]) -> Encoded:
        """The latents of questions; not kept."""
        made = pipeline.encode(self.model, "query_reasoner", questions, "question", self._limits, self._run)
        warn_of_cuts(self.model.tokens, questions, made.lengths, "question")
        return made

    def candidates(self, rows: Sequence[list[str] | Latents]) -> list[Candidates]:
        """The candidates of each question, long ones in windows; what several questions offer is compressed once."""
        given = {id(row): row for row in rows}
        split = {key: self.documents(row) for key, row in given.items() if not isinstance(row, Latents)}
        texts = dict(part for documents in split.values() for document in documents for part in document.parts)
        blocks = self.compress(texts) if texts else Encoded(torch.empty(0), ())
        place = {key: number for number, key in enumerate(texts)}
        made: dict[int, Candidates] = {}
        for number, row in given.items():
            if isinstance(row, Latents):
                self.model.check_latents(row)
                made[number] = Candidates(Encoded(row.vectors, row.lengths), range(len(row)), row.windows, row.texts)
            else:
                places = [place[window.key] for document in split[number] for window in document.windows]
                shown = [self.read_part(text) for document in split[number] for _, text in document.parts]
                made[number] = Candidates(blocks, places, windows_of(split[number]), shown)
        return [made[id(row)] for row in rows]

    # -- without latents ---------------------------------------------------------------------------------------

    def missing(self, documents: Sequence[SplitText], k: int) -> dict[str, str]:
        """The texts without latents by key, where a question does without them (`Shared.text_first`).

        At least ``k`` must be missing: compressing fewer than are read costs less than reading them.
        """
        if not self.shared.text_first:
            return {}
        texts = dict(part for document in documents for part in document.parts)
        found = self._store.get(self.model.fingerprint, list(texts))
        missing = {key: texts[key] for key, block in zip(texts, found, strict=True) if block is None}
        enough = len(missing) >= min(k, len(texts)) and not self.shared.background.due(missing.items())
        return missing if enough else {}

    def later(self, texts: Mapping[str, str], *, answered: bool) -> None:
        """Have texts compressed when nobody asks for anything; ``answered`` as for `Background.add`."""
        if texts:
            self._scheduler.touch()
            compress = Call(self.shared).compress
            self.shared.background.add(texts.items(), lambda some: compress(dict(some)), answered=answered)

    def read_part(self, text: str) -> str:
        """What is read of a window: all of it, or its start where long texts are cut."""
        return text[: self.model.tokens.reach(text)] if self.shared.cuts else text

    def rank(self, questions: Sequence[str], rows: Sequence[Candidates]) -> list[list[Ranked]]:
        """The windows of each question's candidates, best first."""
        queries = self.queries(questions)
        start = time.perf_counter()
        weight = self.shared.word_weight
        ranked = pipeline.rank(queries.vectors, rows, self.model.config.ranking, questions, weight)
        self._run.seconds["rank"] += time.perf_counter() - start
        return ranked

    def answer(
        self,
        questions: Sequence[str],
        selected: Sequence[Encoded],
        how: Generation,
        texts: Sequence[Sequence[str]],
        priors: Sequence[float],
    ) -> list[tuple[Written, list[int]]]:
        """Answer each question from what is selected for it, best first.

        Args:
            questions: the questions.
            selected: latents of the windows of each.
            how: to generate.
            texts: of each question's windows, some of which may be read as text; none where they are not known.
            priors: as for `ClaraModel.generate_ids`.

        Returns:
            what was written, and which of the windows were read as text.
        """
        expand, asked = self.shared.expand, zip(questions, selected, texts, strict=True)
        prompts, shown = zip(*(pipeline.mixed_prompt(self.model, *one, expand) for one in asked), strict=True)
        latents = [
            part.pick([index for index in range(len(part)) if index not in as_text])
            for part, as_text in zip(selected, shown, strict=True)
        ]
        return list(zip(self.write(prompts, latents, how, priors, texts), shown, strict=True))

    def write(
        self,
        prompts: Sequence[list[int]],
        selected: Sequence[Encoded] | None,
        how: Generation,
        priors: Sequence[float] | None = None,
        texts: Sequence[Sequence[str]] = (),
    ) -> list[Written]:
        """Generate for each prompt; without latents by the base model alone.

        Raises:
            ClaraError: a copy is asked for where the ``texts`` of what is read are not known.
        """
        blocks = None if selected is None else [part.vectors for part in selected]
        if how.copy:
            if not all(texts):
                raise ClaraError(
                    "copy=True copies from the texts of what is read, and these latents have none; give the texts, or "
                    "latents of Clara.compress or of a store that keeps texts"
                )
            return pipeline.copy(self.model, prompts, blocks, texts, how, self._run, priors)
        if self.shared.engine is not None and blocks is not None:
            start = time.perf_counter()
            written = self.shared.engine.write(self.model, prompts, blocks, how, self._feed, priors)
            self._run.seconds["generate"] += time.perf_counter() - start
            return pipeline.read_written(written)
        width = max(map(len, prompts)) + how.max_new_tokens
        small = width * len(prompts) <= pipeline.GENERATE_TOKENS
        if self._feed is not None or not small or not may_share(self.model, how):
            return pipeline.write(self.model, prompts, blocks, how, self._limits, self._run, self._feed, priors)
        like = blocks is None, priors is None, how, self._limits.items
        share = Share(like, width, pipeline.GENERATE_TOKENS, self._limits.items)
        items = [(ids, blocks and blocks[n], priors and priors[n]) for n, ids in enumerate(prompts)]
        made: list[Written] = self._run("generate", partial(_write, self.model, how, self._limits), items, share)
        return made

    # -- making blocks -----------------------------------------------------------------------------------------

    def _made(self, fingerprint: str, texts: Mapping[str, str], seen: int) -> dict[str, Block | None]:
        """The block of each text by key, made here or by another thread; None where the other thread gave up.

        ``seen`` is how often blocks had been made before the store was asked for these.
        """
        # a store takes nothing out of a batch
        way = f"{fingerprint} alone" if self._limits.one_text_per_pass else fingerprint
        with self._scheduler.making((way, key) for key in texts) as (mine, others):
            keys = [key for _, key in mine]
            kept = [None] * len(keys) if self._scheduler.made == seen else self._store.get(fingerprint, keys)
            found = dict(zip(keys, kept, strict=True))
            for key, block in found.items():
                if block is not None:  # another thread has kept it meanwhile
                    mine[way, key].set_result(block)
            for part in self._encoded({key: texts[key] for key in keys if found[key] is None}):
                self._store.put(fingerprint, part)
                for key, block in part.items():
                    mine[way, key].set_result(block)
                found |= part
        theirs = {key: wait_for(made, self._check) for (_, key), made in others.items()}
        if theirs_kept := {key: block for key, block in theirs.items() if block is not None}:
            self._store.put(fingerprint, theirs_kept)
        return found | theirs

    def _encoded(self, texts: dict[str, str]) -> Iterator[dict[str, Block]]:
        keys, kept = list(texts), list(texts.values())
        batches = pipeline.encode_batches(self.model, "compressor", kept, "document", self._limits, self._run)
        for places, made in batches:
            vectors = (vector.clone() for vector in made.vectors)
            blocks = map(Block, vectors, made.lengths, (kept[place] for place in places))
            yield {keys[place]: block for place, block in zip(places, blocks, strict=True)}


def windows_of(documents: Sequence[SplitText]) -> list[Window] | None:
    """Which stretch of which document each window is; None where every document is read whole."""
    if all(len(document.windows) == 1 for document in documents):
        return None
    return [replace(window, key="", document=index) for index, one in enumerate(documents) for window in one.windows]


def _engine(model: ClaraModel, options: ClaraOptions) -> Engine | None:
    """What writes in place of this process's model, where an address is given."""
    if options.engine_url is None:
        return None
    from clara_model.engines.vllm import VllmEngine  # HTTP is for those who use it

    return VllmEngine(options.engine_url, model, options.engine_api_key, options.engine_timeout)


def _write(model: ClaraModel, how: Generation, limits: Limits, items: list[Any], check: Check | None) -> list[Written]:
    """For several callers in the owner's thread: smaller batches where memory ends."""
    prompts, blocks = [ids for ids, *_ in items], [block for _, block, _ in items if block is not None]
    priors = [prior for *_, prior in items if prior is not None]
    run: Run = lambda _, work, some: work(some, check)  # noqa: E731
    return pipeline.write(model, prompts, blocks or None, how, limits, run, priors=priors or None)


def may_share(model: ClaraModel, how: Generation) -> bool:
    """Whether an answer may share a batch with other callers' answers.

    On a CPU in half precision rounding depends on the batch, and an answer must not depend on who else is asking; on a
    GPU it does in any case (kernels choose their order of summation by shape).
    """
    exact = model.device.type != "cpu" or (model.base.dtype == torch.float32 and not model.merged.quick)
    return exact and not how.sampling.get("do_sample")

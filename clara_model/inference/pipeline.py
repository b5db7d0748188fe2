"""The one pipeline on a model: texts to latents, latents to a ranking, latents and questions to text.

`Clara`, the calls of the published model card and the evaluation in ``trainers`` all come through here. Takes checked
arguments; batches them, goes on with smaller batches when memory runs out, and gives latents back in host memory.
Leaves out threads, stores and times (`inference.calls`), and whose latents they are (checked by the callers).
Shapes: ``B`` questions, ``N`` documents, ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from clara_model.inference.batching import Batches, is_out_of_memory, plan_batches, release_memory
from clara_model.inference.results import Ranked
from clara_model.modeling.adapters import BASE
from clara_model.modeling.copying import Stretch, copied
from clara_model.modeling.generation import Generated
from clara_model.modeling.model import RoleModel
from clara_model.modeling.ranking import PART_BYTES, scores_in_parts
from clara_model.modeling.tokens import Tokens
from clara_model.search.bm25 import BM25
from clara_model.validation import Generation
from clara_model.windows import Window

logger = logging.getLogger(__name__)

BATCH_TOKENS = {"cuda": 16384, "cpu": 2048}
"""Positions in one encoder batch, padding included; on a CPU, more than fits its caches is slower."""
GENERATE_TOKENS = 16384
"""Positions in one generating batch, new tokens included."""

What = Literal["document", "question"]
Check = Callable[[], None]
"""Raises where nobody wants the result of a pass any more."""
Pass = Callable[[list[Any], Check | None], Any]
"""One pass through the model, on a batch of items."""
Run = Callable[[str, Pass, list[Any]], Any]
"""Runs a pass of a phase (``compress``, ``query``, ``generate``) on its items; `Clara` has its scheduler do it."""


def here(_phase: str, work: Pass, items: list[Any]) -> Any:
    """The `Run` of a caller that has the model to itself."""
    return work(items, None)


@dataclass(frozen=True)
class Limits:
    """Bounds of one batch."""

    tokens: int | None = None
    """Positions in one encoder batch, padding included; `BATCH_TOKENS` of the device by default."""
    items: int | None = None
    """Texts or prompts in one batch; no bound by default."""
    one_text_per_pass: bool = False
    """Whether a text is encoded in a pass of its own on a GPU too (`RoleModel.encode_rows`)."""

    def encoder_tokens(self, model: RoleModel) -> int:
        """Positions in one encoder batch of this model."""
        return self.tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cuda"])


@dataclass(frozen=True)
class Encoded:
    """What an encoder made: ``vectors`` ``[N, M, D]`` in host memory, and the text tokens of each text."""

    vectors: Tensor
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    def pick(self, places: Sequence[int]) -> Encoded:
        """Some of them."""
        return Encoded(self.vectors[list(places)], tuple(self.lengths[place] for place in places))


@dataclass(frozen=True)
class Candidates:
    """The documents of one question, or their windows: blocks, and for each window the place of its block."""

    blocks: Encoded
    places: Sequence[int]
    windows: Sequence[Window] | None = None
    """Which stretch of which document each is; None where every document is one window."""
    texts: Sequence[str] | None = None
    """Of the windows; None where they are not known."""

    def __len__(self) -> int:
        return len(self.places)

    def window(self, index: int) -> Window:
        """One of them."""
        return Window(document=index) if self.windows is None else self.windows[index]

    def pick(self, selected: Sequence[int]) -> Encoded:
        """The latents of some windows."""
        return self.blocks.pick([self.places[index] for index in selected])


@dataclass(frozen=True)
class Written:
    """What was generated for one prompt."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    confidence: float | None = None
    """See `Answer.confidence`."""
    stretch: Stretch | None = None
    """Of what was read, where all of the text stands, if it was copied."""


# -- encode ------------------------------------------------------------------------------------------------------


def encode_batches(
    model: RoleModel,
    role: str,
    texts: Sequence[str],
    what: What = "document",
    limits: Limits = Limits(),
    run: Run = here,
) -> Iterator[tuple[list[int], Encoded]]:
    """Encode texts in batches of like length, each in a pass that ``run`` runs; ``role`` is an encoder's.

    Yields:
        indices into the texts and what was made of them, batch by batch.
    """

    def encode_batch(some: list[list[int]], _check: Check | None) -> Tensor:
        return model.encode_rows(role, some, one_text_per_pass=limits.one_text_per_pass).to("cpu")

    rows = [model.tokens.document_ids(text) for text in texts]
    phase = "compress" if what == "document" else "query"
    batches = Batches(plan_batches([len(row) for row in rows], limits.encoder_tokens(model), limits.items), what)
    for batch in batches:
        some = [rows[index] for index in batch]
        try:
            vectors_NMD = run(phase, encode_batch, some)
        except (RuntimeError, MemoryError) as error:
            batches.retry(batch, error)
        else:
            yield batch, Encoded(vectors_NMD, model.tokens.lengths(some))


def encode(
    model: RoleModel,
    role: str,
    texts: Sequence[str],
    what: What = "document",
    limits: Limits = Limits(),
    run: Run = here,
) -> Encoded:
    """`encode_batches` put together in the texts' order; at least one text."""
    vectors_NMD: Tensor | None = None
    lengths = [0] * len(texts)
    for places, made in encode_batches(model, role, texts, what, limits, run):
        if vectors_NMD is None:
            vectors_NMD = made.vectors.new_empty(len(texts), *made.vectors.shape[1:])
        vectors_NMD[places] = made.vectors
        for place, length in zip(places, made.lengths, strict=True):
            lengths[place] = length
    if vectors_NMD is None:
        raise ValueError("nothing to encode: got no texts")
    return Encoded(vectors_NMD, tuple(lengths))


def compress(
    model: RoleModel, rows: Sequence[Sequence[str]], limits: Limits = Limits(), run: Run = here
) -> list[Candidates]:
    """The candidates of each question, every distinct text compressed once; the end of a long one is cut, and told."""
    place = {text: place for place, text in enumerate(dict.fromkeys(text for row in rows for text in row))}
    blocks = encode(model, "compressor", list(place), "document", limits, run)
    warn_of_cuts(model.tokens, list(place), blocks.lengths)
    return [Candidates(blocks, [place[text] for text in row]) for row in rows]


def warn_of_cuts(tokens: Tokens, texts: Sequence[str], lengths: Sequence[int], what: str = "document") -> None:
    """One warning with counts if any of some distinct texts was cut, by the text tokens that were kept of each."""
    limit = tokens.config.doc_max_length
    long = [text for text, length in zip(texts, lengths, strict=True) if length > limit]
    reached = [(tokens.reach(text), len(text)) for text in long]
    reached = [(reach, length) for reach, length in reached if reach < length]
    if not reached:
        return
    rest = "; long_documents='split' reads them whole" if what == "document" else ""
    logger.warning(
        "%d of %d %ss longer than %d tokens: %d of their %d characters were read and the rest was cut%s",
        len(reached), len(texts), what, limit, sum(reach for reach, _ in reached), sum(length for _, length in reached),
        rest,
    )  # fmt: skip


# -- rank --------------------------------------------------------------------------------------------------------


def rank(
    queries_BMD: Tensor, rows: Sequence[Candidates], ranking: str, asked: Sequence[str] = (), word_weight: float = 0.0
) -> list[list[Ranked]]:
    """Each question's candidates by the checkpoint's score, best first; equal scores in the order given.

    Equal texts have one block, so their scores are equal to the bit. Questions that share one `Candidates` object are
    scored together.

    Args:
        queries_BMD: the questions' latents.
        rows: the candidates of each.
        ranking: the checkpoint's way to score latents.
        asked: the questions, where their words are looked at.
        word_weight: how much a candidate's share of the question's words adds where its text is known; 0 for nothing.
    """
    rankings: dict[int, list[Ranked]] = {}
    for row in {id(row): row for row in rows}.values():
        asking = [index for index, other in enumerate(rows) if other is row]
        used = {place: number for number, place in enumerate(dict.fromkeys(row.places))}
        whole = len(used) == len(row.blocks)
        blocks = row.blocks.vectors if whole else row.blocks.vectors[list(used)]
        scores_BK = _scored(queries_BMD[asking], blocks, ranking)
        columns = row.places if whole else [used[place] for place in row.places]
        words = BM25(row.texts) if word_weight and row.texts is not None else None
        for index, scores in zip(asking, scores_BK, strict=True):
            ranked = [Ranked(number, scores[column], latents=scores[column]) for number, column in enumerate(columns)]
            if words is not None:
                shares = words.shares(asked[index]).tolist()
                ranked = [
                    replace(one, score=one.score + word_weight * share, by="both", words=share)
                    for one, share in zip(ranked, shares, strict=True)
                ]
            rankings[index] = sorted(ranked, key=lambda candidate: -candidate.score)
    return [rankings[index] for index in range(len(rows))]


def _scored(queries_BMD: Tensor, blocks_NMD: Tensor, ranking: str) -> list[list[float]]:
    """The scores of all blocks; where memory ends, in smaller parts down to one block."""
    part = PART_BYTES
    while True:
        try:
            return scores_in_parts(queries_BMD, blocks_NMD, part, ranking=ranking).tolist()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or part <= 4 * blocks_NMD[0].numel():
                raise
        part //= 8
        release_memory()
        logger.warning("out of memory while scoring %d documents; going on with smaller parts", len(blocks_NMD))


def by_document(ranking: Sequence[Ranked], row: Candidates) -> list[Ranked]:
    """A ranking of windows as one of documents: each stands where its best window does."""
    if row.windows is None:
        return list(ranking)
    best: dict[int, Ranked] = {}
    for one in ranking:
        window = row.windows[one.index]
        best.setdefault(window.document, replace(one, index=window.document, window=None if window.whole else window))
    return list(best.values())


def best_first(ranking: Sequence[Ranked], k: int) -> list[int]:
    """The windows to read of a ranking: the best ``k``, whichever documents they are of."""
    return [one.index for one in ranking[:k]]


def in_given_order(row: Candidates, ranking: Sequence[Ranked], k: int) -> list[int]:
    """The windows to read of documents whose order is settled: of each of the first ``k`` its best, then other windows.

    At most ``k`` windows, those of one document best first by the ``ranking``; where it is empty, the first are best.
    """
    if row.windows is None:
        return list(range(min(k, len(row))))
    order = [one.index for one in ranking] or sorted(range(len(row)), key=lambda index: row.window(index).number)
    best: dict[int, int] = {}
    for index in order:
        best.setdefault(row.window(index).document, index)
    read = {best[document] for document in sorted(best)[:k]}
    others = [index for index in order if index not in read]
    read.update(others[: k - len(read)])
    return sorted((index for index in order if index in read), key=lambda index: row.window(index).document)


# -- write -------------------------------------------------------------------------------------------------------


def answer(
    model: RoleModel,
    questions: Sequence[str],
    selected: Sequence[Encoded],
    how: Generation,
    limits: Limits = Limits(),
    run: Run = here,
    streamer: BaseStreamer | None = None,
) -> list[Written]:
    """Answer each question from the latents that are selected for it, best first, under the checkpoint's own prompt.

    Raises:
        ClaraError: slots that do not fit the prompt.
    """
    prompt = model.config.prompts.answer
    asked = zip(questions, selected, strict=True)
    prompts = [model.tokens.prompt_ids(prompt, len(part), question) for question, part in asked]
    return write(model, prompts, [part.vectors for part in selected], how, limits, run, streamer)


def mixed_prompt(
    model: RoleModel, question: str, selected: Encoded, texts: Sequence[str], expand: int
) -> tuple[list[int], list[int]]:
    """The ids of a prompt that shows the first of the selected windows as text and has slots for the others.

    Of those others a text that takes no more of the prompt than its slots is shown as well.

    Args:
        model: its answer prompt.
        question: shortened only where the slots alone leave it no room.
        selected: the windows, best first.
        texts: of the windows; none where they are not known.
        expand: how many of the first are to be shown; 0 shows none at all.

    Returns:
        the ids, and which windows stand in them as text: fewer than asked for where the prompt has no room.

    Raises:
        ClaraError: slots that do not fit the prompt.
    """
    tokens, prompt = model.tokens, model.config.prompts.answer

    def ids_of(shown: Sequence[int]) -> list[int]:
        text = "\n\n".join(texts[index] for index in shown)
        return tokens.prompt_ids(prompt, len(selected) - len(shown), question, text=text)

    count = min(expand, len(texts))
    while count and not tokens.fits(prompt, len(selected) - count, question, "\n\n".join(texts[:count])):
        count -= 1
    shown, ids = list(range(count)), ids_of(range(count))
    short = range(count, len(texts) if expand else 0)
    more = [*shown, *(index for index in short if selected.lengths[index] <= model.config.memory_tokens)]
    if len(more) > count and len(shorter := ids_of(more)) <= len(ids):
        return shorter, more
    return ids, shown


def write(
    model: RoleModel,
    prompts: Sequence[list[int]],
    blocks: Sequence[Tensor] | None,
    how: Generation,
    limits: Limits = Limits(),
    run: Run = here,
    streamer: BaseStreamer | None = None,
    priors: Sequence[float] | None = None,
) -> list[Written]:
    """Generate for each prompt, in batches of like length.

    Args:
        model: in evaluation mode.
        prompts: rows of ids with slots.
        blocks: for each prompt its latents ``[k, M, D]`` in slot order; None: the base model alone, without slots.
        how: to generate.
        limits: of a batch.
        run: runs each pass.
        streamer: receives new ids; for one prompt only.
        priors: as for `ClaraModel.generate_ids`.
    """
    written: dict[int, Written] = {}
    lengths = [len(prompt) + how.max_new_tokens for prompt in prompts]
    at_once = 1 if how.one_by_one else limits.items  # what is drawn must not hang on who else is drawing
    batches = Batches(plan_batches(lengths, GENERATE_TOKENS, at_once), "prompt")
    write_batch = partial(_write_batch, model, how, streamer)
    for batch in batches:
        try:
            items = [(prompts[i], blocks and blocks[i], priors and priors[i]) for i in batch]
            made = run("generate", write_batch, items)
        except (RuntimeError, MemoryError) as error:
            batches.retry(batch, error)
        else:
            written.update(zip(batch, made, strict=True))
    return [written[index] for index in range(len(prompts))]


def copy(
    model: RoleModel,
    prompts: Sequence[list[int]],
    blocks: Sequence[Tensor] | None,
    texts: Sequence[Sequence[str]],
    how: Generation,
    run: Run = here,
    priors: Sequence[float] | None = None,
) -> list[Written]:
    """`write` by copying from the texts of what each prompt reads, one prompt after the other."""

    def copy_one(items: Sequence[tuple[Any, ...]], _check: Check | None) -> Written:
        ((ids, *more),) = items
        made = copied(model, ids, *more, most=how.max_new_tokens, role="generator" if blocks else BASE)
        return Written(made.text, len(ids), made.tokens, "stop", made.confidence, made.stretch)

    nothing = [None] * len(prompts)
    items = zip(prompts, blocks or nothing, texts, priors or nothing, strict=True)
    return [run("generate", copy_one, [item]) for item in items]


def _write_batch(
    model: RoleModel,
    how: Generation,
    streamer: BaseStreamer | None,
    items: Sequence[tuple[list[int], Tensor | None, float | None]],
    check: Check | None,
) -> list[Written]:
    rows, blocks = [row for row, *_ in items], [block for _, block, _ in items if block is not None]
    priors = [prior for *_, prior in items if prior is not None]
    options = {**how.arguments(), "streamer": streamer, "priors": priors or None}
    if check is not None:
        criteria = [*options.get("stopping_criteria", ()), _StillWanted(check)]
        options["stopping_criteria"] = StoppingCriteriaList(criteria)
    with how.seeded(model.device):
        made = model.generate_ids(rows, blocks, **options) if blocks else model.generate_plain(rows, **options)
    return read_written(made)


def read_written(made: Generated) -> list[Written]:
    """What was generated, one by one."""
    parts = made.texts, made.prompt_tokens, made.completion_tokens, made.finish_reasons, made.confidences
    return list(map(Written, *parts))


class _StillWanted(StoppingCriteria):
    """Ends a generation at its next token by what ``check`` raises."""

    def __init__(self, check: Check) -> None:
        self._check = check

    def __call__(self, input_ids: Tensor, *_: object, **__: object) -> torch.BoolTensor:  # type: ignore[override]
        self._check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]

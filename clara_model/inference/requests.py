"""What `Clara` is asked for, checked, and how it is done step by step: answers from documents, and the base alone.

A request is run at once or in a stream's thread; both run the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from clara_model.errors import ClaraError
from clara_model.inference import pipeline
from clara_model.inference.calls import Call, Shared, windows_of
from clara_model.inference.pipeline import Candidates, Encoded, Written
from clara_model.inference.quotes import Quote, quotes, unsupported
from clara_model.inference.results import Answer, Found, Ranked, SearchResults, Timings, Usage
from clara_model.inference.streaming import Feed, TextPieces
from clara_model.latents import Latents
from clara_model.search.bm25 import BM25, shared_words
from clara_model.search.store_search import Scored
from clara_model.store.protocol import Where
from clara_model.validation import Generation
from clara_model.windows import SplitText, Window

_NO_BLOCKS = Encoded(torch.empty(0), ())


@dataclass(frozen=True)
class Choice:
    """What to read of one question's candidates: windows by number, as the pipeline selects them."""

    row: Candidates
    """The windows, without blocks."""
    texts: list[str]
    """Of all windows."""
    ranking: list[Ranked]
    """By words; empty where the order is settled."""
    selected: list[int]


@dataclass(frozen=True)
class TextPrompt:
    """A question's prompt with text in the slots' place."""

    question: str
    choice: Choice
    selected: list[int]
    """Those that fit."""
    ids: list[int]
    text_tokens: int

    def texts(self, call: Call) -> list[str]:
        """What it shows of each."""
        return [call.read_part(self.choice.texts[index]) for index in self.selected]


def rank(question: str, texts: Sequence[str]) -> list[Ranked]:
    """Texts by the words that they share with a question, best first; equal scores in the order given."""
    scores = BM25(texts).shares(question).tolist()
    ranked = (Ranked(i, score, by="words", words=score) for i, score in enumerate(scores))
    return sorted(ranked, key=lambda one: -one.score)


def choose(question: str, documents: Sequence[SplitText], k: int | None, *, rerank: bool) -> Choice:
    """What to read of candidates: the best ``k`` windows (default: all), or of settled documents the best of each."""
    texts, windows = [text for document in documents for _, text in document.parts], windows_of(documents)
    k = len(texts) if k is None else k
    row = Candidates(_NO_BLOCKS, range(len(texts)), windows)
    ranking = rank(question, texts) if rerank or windows is not None else []
    if rerank:
        return Choice(row, texts, ranking, pipeline.best_first(ranking, k))
    return Choice(row, texts, [], pipeline.in_given_order(row, ranking, k))


def prompt(call: Call, question: str, choice: Choice, how: Generation) -> TextPrompt | None:
    """The prompt with as many of the chosen texts as the base model reads, the last left out first; None if none."""
    tokens, wording = call.model.tokens, call.model.config.prompts.answer
    reads = getattr(call.model.base.config, "max_position_embeddings", None) or 2**62
    for count in range(len(choice.selected), 0, -1):
        kept = choice.selected[:count]
        texts = [call.read_part(choice.texts[index]) for index in kept]
        ids = tokens.text_prompt_ids(wording, "\n\n".join(texts), question)
        if len(ids) + how.max_new_tokens <= reads:
            return TextPrompt(question, choice, kept, ids, sum(map(tokens.count, texts)))
    return None


@dataclass(frozen=True)
class AnswerRequest:
    """Questions, each with its candidates."""

    questions: Sequence[str]
    rows: Sequence[list[str] | Latents]
    """One and the same object where questions share their candidates."""
    top_k: int
    rerank: bool
    """Whether to rank the candidates; otherwise they are read in their order."""
    can_rank: bool
    """Whether the checkpoint can: then of a long document the best windows are read in any case."""
    how: Generation

    def run(self, call: Call) -> list[Answer]:
        """Answer each question from latents, or from text where its candidates have none yet."""
        prompts, missing = self._text_prompts(call)
        found: dict[int, Answer] = {}
        try:
            if prompts:
                texts = [one.texts(call) for one in prompts.values()]
                written = call.write([one.ids for one in prompts.values()], None, self.how, texts=texts)
                for (index, prompt), one in zip(prompts.items(), written, strict=True):
                    found[index] = _text_answer(call, prompt, one)
        finally:
            call.later(missing, answered=True)
        rest = [index for index in range(len(self.questions)) if index not in prompts]
        if rest:
            asked, rows = [self.questions[index] for index in rest], [self.rows[index] for index in rest]
            found.update(zip(rest, replace(self, questions=asked, rows=rows)._from_latents(call), strict=True))
        timings = call.timings(len(self.questions))
        return [replace(found[index], timings=timings) for index in range(len(self.questions))]

    def _text_prompts(self, call: Call) -> tuple[dict[int, TextPrompt], dict[str, str]]:
        """The prompt of each question that is answered from text, and the texts to compress afterwards."""
        if not call.shared.text_first:
            return {}, {}
        read = {id(row): call.documents(row) for row in self.rows if not isinstance(row, Latents)}
        missing = {key: call.missing(documents, self.top_k) for key, documents in read.items()}
        prompts: dict[int, TextPrompt] = {}
        for index, (question, row) in enumerate(zip(self.questions, self.rows, strict=True)):
            if missing.get(id(row)):
                choice = choose(question, read[id(row)], self.top_k, rerank=self.rerank)
                made = prompt(call, question, choice, self.how)
                if made is not None:
                    prompts[index] = made
        later = {id(self.rows[index]) for index in prompts}
        return prompts, dict(text for key, texts in missing.items() if key in later for text in texts.items())

    def _from_latents(self, call: Call) -> list[Answer]:
        """Compress, rank, select and answer; the seconds are put in later."""
        rows = call.candidates(self.rows)
        scored = self.rerank or (self.can_rank and any(row.windows is not None for row in rows))
        rankings: list[list[Ranked]] = call.rank(self.questions, rows) if scored else [[] for _ in rows]
        selected = [
            pipeline.best_first(ranking, self.top_k) if self.rerank
            else pipeline.in_given_order(row, ranking, self.top_k)
            for ranking, row in zip(rankings, rows, strict=True)
        ]  # fmt: skip
        latents = [row.pick(chosen) for row, chosen in zip(rows, selected, strict=True)]
        texts = [_texts(row, chosen) for row, chosen in zip(rows, selected, strict=True)]
        priors = [
            _prior(call, question, ranking[0].latents if self.rerank and ranking else None, known[0] if known else None)
            for question, ranking, known in zip(self.questions, rankings, texts, strict=True)
        ]
        written = call.answer(self.questions, latents, self.how, [known or [] for known in texts], priors)
        found = zip(self.questions, written, rankings, rows, selected, latents, texts, strict=True)
        answers = [
            _answer(question, one, ranking if self.rerank else [], row, chosen, known, len(as_text),
                    _usage(one, used, row, as_text))
            for question, (one, as_text), ranking, row, chosen, used, known in found
        ]  # fmt: skip
        none = call.shared.model.config.prompts.no_answer
        return [replace(one, no_answer=bool(none) and one.text.strip() == none) for one in answers]


@dataclass(frozen=True)
class PlainRequest:
    """A prompt of plain ids for the base model alone."""

    ids: list[int]
    how: Generation

    def run(self, call: Call) -> list[Answer]:
        """Generate; one answer."""
        one = call.write([self.ids], None, self.how)[0]
        usage = Usage(prompt_tokens=one.prompt_tokens, completion_tokens=one.completion_tokens)
        return [Answer(one.text, [], [], usage, call.timings(), one.finish_reason, answered_from="text",
                       confidence=one.confidence)]  # fmt: skip


def stream(feed: Feed, shared: Shared, request: AnswerRequest | PlainRequest) -> Answer:
    """Run a request of one answer; what it writes goes to ``feed`` piece by piece."""
    feed.pieces = TextPieces(shared.model.tokens.decode, request.how.stop)
    answer = request.run(Call(shared, feed))[0]
    feed.finish(answer.text)
    return answer


def _text_answer(call: Call, prompt: TextPrompt, one: Written) -> Answer:
    """What the base model wrote from text alone."""
    choice, count, texts = prompt.choice, prompt.text_tokens, prompt.texts(call)
    usage = Usage(count, 0, one.prompt_tokens, one.completion_tokens, count, count)
    answer = _answer(prompt.question, one, choice.ranking, choice.row, prompt.selected, texts, len(texts), usage)
    return replace(answer, answered_from="text")


def _answer(
    question: str,
    one: Written,
    ranking: Sequence[Ranked],
    row: Candidates,
    selected: Sequence[int],
    texts: Sequence[str] | None,
    expanded: int,
    usage: Usage,
) -> Answer:
    """What was written, with where it comes from by document and window, and where its words stand in what was read."""
    windows = [row.window(index) for index in selected]
    read = list(zip(windows, texts or (), strict=texts is not None))
    place = one.stretch
    copied = None if place is None else Quote.of_all(one.text, windows[place.passage], place.start)
    return Answer(
        text=one.text,
        ranking=pipeline.by_document(ranking, row),
        selected=[window.document for window in windows],
        usage=usage,
        timings=Timings(),
        finish_reason=one.finish_reason,
        windows=windows,
        expanded=expanded,
        confidence=one.confidence,
        quotes=quotes(one.text, read) if copied is None else [copied],
        unsupported=None if texts is None else unsupported(one.text, question, read),
    )


def _prior(call: Call, question: str, score: float | None, best: str | None) -> float:
    """How likely the best passage answers the question before it is read: log odds."""
    words = None if best is None else shared_words(question, best)
    return call.shared.model.config.prompts.certainty.prior(score, words)


def _texts(row: Candidates, windows: Sequence[int]) -> list[str] | None:
    """The texts of some windows, where they are known."""
    return None if row.texts is None else [row.texts[index] for index in windows]


def _usage(one: Written, used: Encoded, row: Candidates, as_text: Sequence[int]) -> Usage:
    return Usage(
        text_tokens=sum(used.lengths),
        slots=(len(used) - len(as_text)) * used.vectors.shape[1],
        prompt_tokens=one.prompt_tokens,
        completion_tokens=one.completion_tokens,
        read_tokens=sum(row.blocks.lengths[place] for place in row.places),
        expanded_tokens=sum(used.lengths[index] for index in as_text),
    )


def search(call: Call, question: str, top_k: int, where: Where | None) -> SearchResults:
    """The best windows of the store; checked arguments only.

    Raises:
        ClaraError: no store, or one that cannot be read.
        TypeError: a filter that makes no sense.
    """
    searched = call.shared.search
    if searched is None:
        raise ClaraError("there is no store to search in; load with Clara.load(.., store=FOLDER)")
    question_MD = call.queries([question]).vectors[0]
    start = time.perf_counter()
    best = searched.best(question_MD, top_k, where, question)
    places: dict[str, Window] = {}
    for place in searched.store.places([one.row.key for one in best], where):
        places.setdefault(place.key, place)
    if where is not None:  # what was damaged meanwhile stands nowhere any more
        best = [one for one in best if one.row.key in places]
    found = tuple(_found(one, places.get(one.row.key)) for one in best)
    latents = None
    if best:
        vectors_NMD = torch.stack([one.row.block.vector for one in best])
        lengths = tuple(one.row.block.length for one in best)
        texts = tuple(one.row.block.text for one in best if one.row.block.text is not None)
        known = texts if len(texts) == len(best) else None
        latents = Latents(vectors_NMD, lengths, call.model.fingerprint, texts=known)
    return SearchResults(found, latents, Timings(query=call.timings().query, rank=time.perf_counter() - start))


def _found(one: Scored, place: Window | None) -> Found:
    block = one.row.block
    end = None if place is None else place.end
    return Found(
        score=one.score,
        text=block.text,
        document=None if place is None else place.document,
        window=0 if place is None else place.number,
        start=0 if place is None else place.start,
        end=len(block.text or "") if end is None else end,
        metadata={} if place is None else place.metadata,
        length=block.length,
        latents=one.latents,
        words=one.words,
    )

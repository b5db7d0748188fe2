"""Clara: text in, answer out. Batches, caches, ranks, answers and streams; many threads may use one instance.

The model's scheduler runs every pass; between two batches others get their turn. Latents come back in host memory.
Arguments are checked here; what is asked is `inference.requests`', the steps are `inference.calls`'.
Leaves out frameworks (``clara_integrations``), training (``trainers``), and keeping latents on disk (a `LatentStore`).
Shapes: ``N`` documents, ``M`` memory tokens, ``D`` hidden size.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self, Unpack

import numpy as np
from torch import nn

from clara_model.checkpoint.options import ClaraKeywords, ClaraLoadKeywords, ClaraOptions, GenerationKeywords, parted
from clara_model.defaults import DEFAULT_MODEL, DIMENSIONS
from clara_model.errors import ClaraError
from clara_model.inference import loader, pipeline, requests
from clara_model.inference.batching import release_memory
from clara_model.inference.calls import Call, Shared
from clara_model.inference.pipeline import Encoded
from clara_model.inference.published import ClaraModel
from clara_model.inference.requests import AnswerRequest, PlainRequest, stream
from clara_model.inference.results import Answer, Found, Ranked, SearchResults, Timings, Usage
from clara_model.inference.streaming import TextStream
from clara_model.latents import Latents
from clara_model.modeling.embedding import embed
from clara_model.store.cache import LatentCache, LatentStore
from clara_model.store.protocol import Where
from clara_model.validation import (
    Documents,
    Generation,
    check_count,
    check_documents,
    check_instruction,
    check_options,
    check_pairs,
    check_question,
    check_rows,
    check_texts,
    check_turns,
)

__all__ = ["Answer", "AnswerStream", "Clara", "Found", "Ranked", "SearchResults", "Timings", "Usage"]
logger = logging.getLogger(__name__)

AnswerStream = TextStream[Answer]


class Clara:
    """A CLaRa model for use: compress, rank, answer, stream, paraphrase.

    ``with Clara.load("clara-tiny") as clara: print(clara.answer("Who ..?", texts).text)``
    """

    def __init__(self, model: ClaraModel, **options: Unpack[ClaraKeywords]) -> None:
        """Use a model that is in memory already.

        Args:
            model: in evaluation mode, or its dropout is at work.
            **options: see `ClaraOptions`, e.g. ``store``, ``long_documents``, ``expand``.
        """
        own = check_options(ClaraOptions(**options))
        self._shared: Shared | None = Shared(loader.wrap(model), LatentCache(own.cache_bytes), own)

    @classmethod
    def load(cls, name: str | Path = DEFAULT_MODEL, **options: Unpack[ClaraLoadKeywords]) -> Self:
        """Load a checkpoint; one that is in memory already, with the same options, is shared.

        Args:
            name: a folder, a bundled name such as ``clara-tiny``, or a hub name.
            **options: see `LoadOptions`, e.g. ``dtype`` or ``device``, and `ClaraOptions`, e.g. ``store``.

        Raises:
            ClaraError: in one sentence, what is missing, damaged or does not match.
            EngineError: nobody answers at ``engine_url``, or the server there has another generator.
            TypeError: an unknown option.
        """
        how, own = parted(options)
        loaded = loader.load(name, how, check_options(own).cache_bytes)
        assert loaded.cache is not None
        clara = cls.__new__(cls)
        clara._shared = Shared(loaded, loaded.cache, own)
        return clara

    # -- open and close --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the model; the last holder's close frees its memory. Closing twice is fine.

        A store that was given by its path is closed too; one that was handed over stays open.

        A call that another thread is in the middle of ends as it would have; what is being compressed in the background
        is finished where a store keeps it.
        """
        shared, self._shared = self._shared, None
        if shared is not None:
            last = weakref.ref(shared.loaded)
            shared.close()
            del shared
            if last() is None:
                release_memory()

    def flush(self) -> None:
        """Wait until everything that was answered from text (``cold="text"``) has its latents.

        Raises:
            BaseException: what went wrong in the background since the last flush.
        """
        self.shared.background.flush()

    def __enter__(self) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise ClaraError("a loaded Clara cannot be copied or sent to another process; load it there by its name")

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def shared(self) -> Shared:
        """What its calls share.

        Raises:
            ClaraError: it has been closed.
        """
        shared = self._shared
        if shared is None:
            raise ClaraError("this Clara is closed; load it again with Clara.load")
        return shared

    def call(self) -> Call:
        """A new call: the steps of the pipeline one by one, for who puts them together otherwise."""
        return Call(self.shared)

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def model(self) -> ClaraModel:
        """The model itself; passes that are called on it directly are not guarded against other threads."""
        return self.shared.model

    @property
    def store(self) -> LatentStore:
        """Where latents are kept."""
        return self.shared.store

    @property
    def name(self) -> str:
        """The name it was loaded by, for logs and metadata."""
        return self.shared.loaded.name or "(in memory)"

    @property
    def threads(self) -> ThreadPoolExecutor:
        """For calls of asynchronous callers; all who use the model share them, those of an engine have more."""
        engine = self.shared.engine
        return self.shared.loaded.threads if engine is None else engine.threads

    @property
    def fingerprint(self) -> str:
        """Of the compressor; latents of another one are refused."""
        return self.model.fingerprint

    @property
    def doc_max_length(self) -> int:
        """Text tokens of a document that are read at once; a longer one is read as ``long_documents`` says."""
        return self.model.config.doc_max_length

    @property
    def top_k(self) -> int:
        """Documents that an answer is read from by default."""
        return self.model.config.top_k

    @property
    def context_window(self) -> int | None:
        """Tokens that the base model reads and writes together, where it says so."""
        return getattr(self.model.base.config, "max_position_embeddings", None)

    @property
    def can_rank(self) -> bool:
        """Whether the checkpoint has a query reasoner."""
        return "query_reasoner" in self.model.config.roles

    def count_tokens(self, text: str) -> int:
        """Text tokens of a document, before any cut."""
        return self.model.tokens.count(text)

    def info(self) -> dict[str, Any]:
        """What the checkpoint is: name, roles, sizes in parameters and bytes, float type, device, licence note."""
        return {"name": self.name, **facts(self.model)}

    # -- compress and rank -------------------------------------------------------------------------------------

    def compress(self, texts: Sequence[str]) -> Latents:
        """Compress documents, each distinct text once and those in the store not at all.

        Args:
            texts: at least one; a blank one is allowed.

        Returns:
            latents in the order of the texts, in host memory: one block for each, or one for each window of a long
            text, and then ``.windows`` says which stretch of which text each stands for.
        """
        found = self.call().candidates([check_texts(texts)])[0]
        windows = None if found.windows is None else tuple(found.windows)
        return replace(self._latents(found.pick(range(len(found)))), windows=windows, texts=tuple(found.texts or ()))

    def encode_queries(self, questions: Sequence[str]) -> Latents:
        """Encode questions into the documents' space; a blank one is allowed here."""
        return self._latents(self.call().queries(check_texts(questions, "question")))

    def _latents(self, encoded: Encoded) -> Latents:
        return Latents(encoded.vectors, encoded.lengths, self.fingerprint)

    def embed_texts(self, texts: Sequence[str], size: int = DIMENSIONS) -> list[list[float]]:
        """One short vector for each document, for first-stage search in a vector store; see `modeling.embedding`."""
        return embed(self.compress(texts), size, self.model.config.ranking)

    def embed_questions(self, questions: Sequence[str], size: int = DIMENSIONS) -> list[list[float]]:
        """One short vector for each question, to be compared with those of `embed_texts` of the same size."""
        return embed(self.encode_queries(questions), size, self.model.config.ranking)

    def rank(
        self, question: str, texts: Documents, top_k: int | None = None, *, return_documents: bool = False
    ) -> list[Ranked]:
        """Rank candidates by the score of their latents, and their words if so loaded; a long one by its best window's.

        With ``cold="text"``, where latents are missing, by shared words, and `Ranked.by` says so.

        Args:
            question: must not be blank.
            texts: the candidates' texts, or their latents from `compress`.
            top_k: how many to return (default: all).
            return_documents: whether each comes with its text, `Ranked.text`.

        Returns:
            best first; equal scores in the order given.

        Raises:
            ClaraError: latents of another checkpoint, or a checkpoint without a query reasoner.
            ValueError: ``return_documents`` with latents.
        """
        question, documents = check_question(question), check_documents(texts)
        asked_for: list[str] | None = None
        if return_documents:
            if isinstance(documents, Latents):
                raise ValueError("return_documents=True returns the texts that were given, but latents were given")
            asked_for = documents
        keep = None if top_k is None else check_count(top_k, "top_k")
        call = self.call()
        if not isinstance(documents, Latents) and self.can_rank:
            if missing := call.missing(call.documents(documents), keep or self.top_k):
                call.later(missing, answered=False)
                choice = requests.choose(question, call.documents(documents), None, rerank=True)
                return _ranked(choice.ranking, choice.row, keep, asked_for)
        rows = call.candidates([documents])
        return _ranked(call.rank([question], rows)[0], rows[0], keep, asked_for)

    def predict(self, pairs: Sequence[Sequence[str]]) -> np.ndarray:
        """The scores of pairs of a question and a text, as a `CrossEncoder` of sentence-transformers gives them.

        They are those of `rank` where a question's pairs are its candidates: with words in the score
        (``ranking="hybrid"``), a word weighs by how rare it is among these.

        Args:
            pairs: at least one ``(question, text)``, in any order.

        Returns:
            ``[pairs]`` float32, in the order given.

        Raises:
            ClaraError: a checkpoint without a query reasoner.
            TypeError: what is no list of pairs of strings.
            ValueError: no pair, or a blank question.
        """
        places: dict[str, list[int]] = {}
        checked = check_pairs(pairs)
        for place, (question, _) in enumerate(checked):
            places.setdefault(question, []).append(place)
        call = self.call()
        rows = call.candidates([[checked[place][1] for place in of_one] for of_one in places.values()])
        scores = np.empty(len(checked), dtype=np.float32)
        for of_one, row, ranking in zip(places.values(), rows, call.rank(list(places), rows), strict=True):
            for one in pipeline.by_document(ranking, row):
                scores[of_one[one.index]] = one.score
        return scores

    def search(self, question: str, top_k: int | None = None, *, where: Where | None = None) -> SearchResults:
        """The windows in the store whose latents are nearest to the question: one pass, whatever the store holds.

        ``clara.answer(question, results.latents, rerank=False)`` then answers from them without another pass over text.

        Args:
            question: must not be blank.
            top_k: how many; the checkpoint's number by default.
            where: metadata of the documents that may be found, a value or a list of values for each name.

        Returns:
            best first.

        Raises:
            ClaraError: no store, a store that cannot be read, or a checkpoint without a query reasoner.
        """
        question, k = check_question(question), check_count(self.top_k if top_k is None else top_k, "top_k")
        return requests.search(self.call(), question, k, where)

    # -- answer ------------------------------------------------------------------------------------------------

    def answer(
        self,
        question: str,
        texts: Documents,
        top_k: int | None = None,
        *,
        rerank: bool = True,
        **generation: Unpack[GenerationKeywords],
    ) -> Answer:
        """Rank the candidates and answer from the latents of the best.

        Args:
            question: must not be blank.
            texts: the candidates' texts, or their latents from `compress`.
            top_k: documents to answer from, windows where some are long (default: the checkpoint's own number), capped
                at what there is.
            rerank: False answers from the first ``top_k`` in the order given, as a checkpoint without a query
                reasoner always does.
            **generation: ``max_new_tokens``, ``stop``, ``copy``, ``do_sample``, ``temperature``, ``top_p``,
                ``sampling_top_k``, ``min_p``, ``typical_p``, ``repetition_penalty``, ``no_repeat_ngram_size``,
                ``min_new_tokens``, ``num_beams``, ``length_penalty``, ``early_stopping``, ``seed``; see
                `GenerationKeywords`.

        Raises:
            ClaraError: latents of another checkpoint, more slots than the prompt can hold, or a copy where texts are
                not known or an engine writes.
            ValueError: a blank question, no candidates, or a number below its least value.
            TypeError: something that is not a string where one is needed.
        """
        how = Generation.of(generation)
        request = self._request([question], [check_documents(texts)], top_k, rerank, how)
        return request.run(self.call())[0]

    def answers(
        self,
        questions: Sequence[str],
        texts: Documents | Sequence[Documents],
        top_k: int | None = None,
        *,
        rerank: bool = True,
        **generation: Unpack[GenerationKeywords],
    ) -> list[Answer]:
        """Answer many questions in batches; arguments as for `answer`.

        Args:
            questions: at least one.
            texts: candidates that all questions share, or one list for each question, of any lengths.
            top_k: documents to answer each from.
            rerank: as for `answer`.
            **generation: as for `answer`.
        """
        asked = check_texts(questions, "question")
        how = Generation.of(generation)
        request = self._request(asked, check_rows(texts, len(asked)), top_k, rerank, how)
        return request.run(self.call())

    def stream(
        self,
        question: str,
        texts: Documents,
        top_k: int | None = None,
        *,
        rerank: bool = True,
        **generation: Unpack[GenerationKeywords],
    ) -> AnswerStream:
        """`answer` piece by piece: an iterator of text, one piece for each token that completes some; a copy in one.

        After its end ``.answer`` is the whole `Answer`. Closing it early ends the generation.
        """
        how = Generation.of(generation)
        return TextStream(stream, self.shared, self._request([question], [check_documents(texts)], top_k, rerank, how))

    def _request(
        self,
        questions: Sequence[str],
        rows: Sequence[list[str] | Latents],
        top_k: int | None,
        rerank: bool,
        how: Generation,
    ) -> AnswerRequest:
        asked = tuple(check_question(question) for question in questions)
        k = check_count(self.top_k if top_k is None else top_k, "top_k")
        if how.copy and self.shared.engine is not None:
            raise ClaraError("copy=True needs the model in this process to write; load it without engine_url")
        offered = max(map(len, rows))
        if rerank and not self.can_rank and offered > k:
            logger.warning("no query reasoner to rank with: answering from the first %d of %d documents", k, offered)
        return AnswerRequest(asked, tuple(rows), k, rerank and self.can_rank, self.can_rank, how)

    # -- other writing -----------------------------------------------------------------------------------------

    def paraphrase(
        self,
        texts: Sequence[str],
        *,
        instruction: int | str | None = None,
        **generation: Unpack[GenerationKeywords],
    ) -> list[str]:
        """Each text in other words, written from its latents alone: what the compressor has kept of it.

        Args:
            texts: at least one; the windows of a long one are told again one by one, a line each.
            instruction: index of one of the checkpoint's wordings (default: the first), or one of your own
                with ``{memory}`` in it.
            **generation: as for `answer`.
        """
        how, texts = Generation.of(generation).own_words, check_texts(texts)
        own = self.model.config.prompts.paraphrase
        prompt, wording = check_instruction(0 if instruction is None else instruction, own)
        call = self.call()
        found = call.candidates([texts])[0]
        ids = self.model.tokens.prompt_ids(prompt, 1, wording=wording)
        parts = [found.pick([index]) for index in range(len(found))]
        written: list[list[str]] = [[] for _ in texts]
        for index, one in enumerate(call.write([ids] * len(parts), parts, how)):
            written[found.window(index).document].append(one.text)
        return ["\n".join(pieces) for pieces in written]

    def plain(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        **generation: Unpack[GenerationKeywords],
    ) -> Answer:
        """The base model alone on ordinary text: no roles, no latents.

        Args:
            prompt: what the user says, or a conversation of ``{"role", "content"}`` turns.
            **generation: as for `answer`.

        Returns:
            an `Answer` with an empty ranking.
        """
        how = Generation.of(generation).own_words
        return self._plain_request(prompt, how).run(self.call())[0]

    def stream_plain(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        **generation: Unpack[GenerationKeywords],
    ) -> AnswerStream:
        """`plain` piece by piece, as `stream` does it for `answer`."""
        how = Generation.of(generation).own_words
        return TextStream(stream, self.shared, self._plain_request(prompt, how))

    def _plain_request(self, prompt: str | Sequence[Mapping[str, str]], how: Generation) -> PlainRequest:
        ids = self.model.tokens.chat_ids(check_turns(prompt), self.context_window)
        return PlainRequest(ids, how)


def _ranked(
    ranking: Sequence[Ranked], row: pipeline.Candidates, keep: int | None, texts: Sequence[str] | None
) -> list[Ranked]:
    """The documents of a ranking of windows, each with its text if ``texts`` are given."""
    best = pipeline.by_document(ranking, row)[:keep]
    return best if texts is None else [replace(one, text=texts[one.index]) for one in best]


NO_LICENCE = "not stated; ask where the checkpoint and its base model come from"


def facts(model: ClaraModel) -> dict[str, Any]:
    """Roles, sizes in parameters and bytes, float type, device: ready for JSON."""
    config = model.config
    adapters = list(model.trainable_parameters(config.roles).values())
    own = {id(parameter) for parameter in adapters}
    base = [parameter for parameter in model.parameters() if id(parameter) not in own]
    return {
        "stage": config.stage,
        "roles": list(config.roles),
        "compression_rate": config.compression_rate,
        "doc_max_length": config.doc_max_length,
        "memory_tokens": config.memory_tokens,
        "top_k": config.top_k,
        "lora_rank": config.lora_rank,
        "base_model": config.base_model,
        "base_parameters": sum(parameter.numel() for parameter in base),
        "base_bytes": _nbytes(base),
        "adapter_parameters": sum(parameter.numel() for parameter in adapters),
        "adapter_bytes": _nbytes(adapters),
        "dtype": str(model.base.dtype).removeprefix("torch."),
        "device": str(model.device),
        "fingerprint": model.fingerprint,
        "licence": config.licence or NO_LICENCE,
    }


def _nbytes(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

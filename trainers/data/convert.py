"""Official question-answering files to rows for stages 2 and 3 and for evaluation, with candidates filled up.

A row is ``{"id", "question", "docs", "pos_index"}`` with ``gold_answer`` (one string, to learn) for training, or with
``answers`` (all accepted ones) for evaluation. *oracle*: the gold paragraphs are always candidates, shuffled in with
the question's own other paragraphs and with negatives from the pool. *normal*: the candidates are what the search
finds, or what the file gives, in that order. The pool, every paragraph of the files and of the corpus, is in memory.

HotpotQA and 2WikiMultiHopQA: a JSON list with ``context`` ``[[title, [sentence, ..]], ..]`` and ``supporting_facts``
``[[title, sentence number], ..]``. MuSiQue: JSON lines with ``paragraphs`` marked ``is_supporting``. NQ-open: JSON
lines with ``question`` and a list ``answer``; its passages are a TSV file ``id, text, title`` (as DPR's psgs_w100.tsv).
All may be gzipped. A paragraph becomes ``title``, newline, ``text``.
"""

from __future__ import annotations

import logging
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from clara_model.errors import ClaraError
from trainers.data.jsonl import decode, lines_of, opened, values_of
from trainers.data.negatives import METHODS, PassagePool, Search, make_search

logger = logging.getLogger(__name__)

SPLITS = ("train", "eval")
SETTINGS = ("oracle", "normal")
NO_NEGATIVES = "none"
_DEPTH = 100
"""Passages looked at for each question (as in DPR's search for NQ's gold passages), or five times the candidates."""
_AT_ONCE = 512
NAMED = 5
"""Repeated ids named in the warning."""
_CHANCES = 20
"""Random passages looked at for each place that the search left open."""
YES_NO = ("yes", "no", "noanswer")


@dataclass(frozen=True, kw_only=True)
class OfficialQuestion:
    """One question with the paragraphs its file gives."""

    id: str
    question: str
    answers: tuple[str, ...]
    """Accepted answers, the main one first; none in a test file."""
    golds: tuple[str, ...] = ()
    """Paragraphs the answer is read from; none where the file does not say."""
    others: tuple[str, ...] = ()
    """The other paragraphs that come with the question."""
    golds_missing: bool = False
    """Some gold paragraph is not among the paragraphs given (HotpotQA fullwiki)."""
    answerable: bool = True


def read_questions(path: Path, form: str) -> Iterator[OfficialQuestion]:
    """The questions of an official file of a form in `FORMATS`; a `ClaraError` names the item that has another one."""
    records, parse = FORMATS[form]
    for place, record in records(path):
        try:
            yield parse(_object(record), place)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ClaraError):
                raise ClaraError(f"{place}: {error}") from None
            missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ClaraError(f"{place} does not have the official form of {form} ({missing})") from error


def read_passages(path: Path) -> Iterator[str]:
    """The passages of a corpus: a TSV file ``id, text, title`` (with or without that header), or JSON lines.

    JSON lines hold ``text`` or ``contents``, and a ``title`` if there is one; another line is a `ClaraError`.
    """
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        for place, record in values_of(path):
            values = _object(record, place)
            text = values.get("text", values.get("contents"))
            if not isinstance(text, str):
                raise ClaraError(f'{place} must have a string "text" or "contents"')
            yield paragraph(str(values.get("title") or ""), text)
        return
    for number, (place, line) in enumerate(lines_of(path)):
        fields = line.decode(errors="replace").rstrip("\r\n").split("\t")
        if number == 0 and fields[:2] == ["id", "text"]:
            continue
        if len(fields) not in (2, 3):
            raise ClaraError(f"{place} must be 'id, text, title' with tabs between, got {len(fields)} fields")
        yield paragraph(_unquoted(fields[2]) if len(fields) == 3 else "", _unquoted(fields[1]))


Paragraphs = Sequence[tuple[bool, str]]
"""Of a question, each with whether it is gold."""


def paragraph(title: str, text: str) -> str:
    """A document's text: its title on a line of its own, then the text."""
    return f"{title.strip()}\n{text.strip()}".strip()


def _hotpotqa(values: Mapping[str, Any], place: str) -> OfficialQuestion:
    titles = {title for title, *_ in values.get("supporting_facts", [])}
    given = values["context"]
    paragraphs = [(title in titles, paragraph(title, "".join(_spaced(sentences)))) for title, sentences in given]
    missing = not titles <= {title for title, _ in given}
    answers = [values["answer"]] if values.get("answer") else []
    return _question(values, "_id", place, answers, paragraphs, golds_missing=missing)


def _spaced(sentences: list[str]) -> Iterator[str]:
    """Sentences with one space between them, whether or not the file has it in front of each."""
    for number, sentence in enumerate(sentences):
        yield sentence if number == 0 or sentence[:1].isspace() else f" {sentence}"


def _musique(values: Mapping[str, Any], place: str) -> OfficialQuestion:
    given = values["paragraphs"]
    paragraphs = [(bool(one.get("is_supporting")), paragraph(one["title"], one["paragraph_text"])) for one in given]
    main = [values["answer"]] if values.get("answer") else []
    answers = [*main, *values.get("answer_aliases", [])]
    return _question(values, "id", place, answers, paragraphs, answerable=bool(values.get("answerable", True)))


def _nq(values: Mapping[str, Any], place: str) -> OfficialQuestion:
    answers = values.get("answer", [])
    if not isinstance(answers, list):
        raise ClaraError('"answer" must be a list of strings in NQ-open')
    return _question(values, "id", place, answers, [])


def _question(
    values: Mapping[str, Any], key: str, place: str, answers: Sequence[Any], paragraphs: Paragraphs, **more: bool
) -> OfficialQuestion:
    """``answers``: the main one first, maybe none."""
    return OfficialQuestion(
        id=str(values.get(key, Path(place).name)),
        question=_string(values["question"]),
        answers=tuple(dict.fromkeys(_string(answer) for answer in answers)),
        golds=tuple(text for gold, text in paragraphs if gold),
        others=tuple(text for gold, text in paragraphs if not gold),
        **more,
    )


def _json_list(path: Path) -> Iterator[tuple[str, object]]:
    """Items of a file that is one JSON list, named by their number from 1."""
    try:
        with opened(path) as file:
            values = decode(file.read())
    except OSError as error:
        raise ClaraError(f"{path} could not be read ({error.strerror or error})") from error
    except ClaraError as error:
        raise ClaraError(f"{path} must be one JSON list, but is {error}") from error
    if not isinstance(values, list):
        raise ClaraError(f"{path} must be one JSON list, got {type(values).__name__}")
    for number, value in enumerate(values, start=1):
        yield f"{path}, item {number}", value


def _object(value: object, place: str = "") -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ClaraError(f"{place} must be a JSON object, got {type(value).__name__}".lstrip())
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a string is needed, got {type(value).__name__}")
    return value


def _unquoted(field: str) -> str:
    """A TSV field without the quotes that DPR's file puts around texts (``""`` inside stands for ``"``)."""
    if len(field) > 1 and field[0] == field[-1] == '"':
        return field[1:-1].replace('""', '"')
    return field


Reading = Callable[[Path], Iterator[tuple[str, object]]]
FORMATS: dict[str, tuple[Reading, Callable[[Mapping[str, Any], str], OfficialQuestion]]] = {
    "hotpotqa": (_json_list, _hotpotqa),
    "2wiki": (_json_list, _hotpotqa),
    "musique": (values_of, _musique),
    "nq": (values_of, _nq),
}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What the rows shall be: the flags of ``clara-data convert``, whose help says what they mean."""

    form: str
    split: str = "train"
    setting: str = "oracle"
    negatives: str = "bm25"
    candidates: int = 20
    embedding_model: str | None = None
    store: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {"form": tuple(FORMATS), "split": SPLITS, "setting": SETTINGS, "negatives": (*METHODS, NO_NEGATIVES)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ClaraError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.candidates < 1:
            raise ClaraError(f"candidates must be at least 1, got {self.candidates}")
        if self.embedding_model and self.negatives != "embedding":
            raise ClaraError(f"an embedding model has no effect with negatives {self.negatives}; leave one of them out")
        if self.store and not self.embedding_model:
            raise ClaraError("a store has no effect without an embedding model clara:NAME; leave one of them out")
        if self.form == "nq" and self.negatives == NO_NEGATIVES:
            raise ClaraError("NQ-open names no passages: its gold one is searched for; use bm25 or embedding negatives")


class Converter:
    """Reads questions and a pool, and writes rows; what it did is in ``counts``, what it left out in ``left_out``."""

    def __init__(self, config: ConvertConfig, files: Sequence[Path], corpus: Sequence[Path] = ()) -> None:
        if config.form == "nq" and not corpus:
            raise ClaraError("NQ-open names no passages; give a --corpus, a TSV file 'id, text, title'")
        self.config, self.pool = config, PassagePool()
        self.counts, self.left_out, self._ids = Counter[str](), Counter[str](), Counter[str]()
        self._search: Search | None = None
        self._questions: list[OfficialQuestion] = []
        for path in files:
            for question in read_questions(path, config.form):
                self._take(question)
        for path in corpus:
            for passage in read_passages(path):
                self.pool.add(passage)
        repeated = [name for name, count in self._ids.items() if count > 1]
        if repeated:  # as in official files; what is learned from hangs on no id
            self.counts["ids that come more than once"] = len(repeated)
            more = f" and {len(repeated) - NAMED} more" if len(repeated) > NAMED else ""
            named = ", ".join(repeated[:NAMED]) + more
            logger.warning("ids that come more than once: %s; every question becomes a row", named)

    def _take(self, question: OfficialQuestion) -> None:
        self.counts["questions read"] += 1
        self._ids[question.id] += 1
        for text in (*question.golds, *question.others):
            self.pool.add(text)
        problem = self._problem(question)
        if problem:
            self.left_out[problem] += 1
        else:
            self._questions.append(question)

    def _problem(self, question: OfficialQuestion) -> str:
        """Why a question cannot become a row; empty where it can."""
        if not question.answers or not any(answer.strip() for answer in question.answers):
            return "no answer in the file (a test file?)"
        if not question.answerable:
            return "marked as not answerable"
        if self.config.setting == "normal" or self.config.form == "nq":
            return ""
        if question.golds_missing or not question.golds:
            return "a gold paragraph is not among those given"
        return "more gold paragraphs than candidates" if len(question.golds) > self.config.candidates else ""

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, in the files' order."""
        for start in range(0, len(self._questions), _AT_ONCE):
            batch = self._questions[start : start + _AT_ONCE]
            for question, found in zip(batch, self._found(batch), strict=True):
                row = self._row(question, found)
                if row is not None:
                    self.counts["rows written"] += 1
                    yield row

    def _found(self, batch: Sequence[OfficialQuestion]) -> list[list[int]]:
        """What the search finds for each question; nothing where its own paragraphs are enough."""
        config = self.config
        needy = [question for question in batch if self._needs_search(question)]
        if not needy:
            return [[] for _ in batch]
        if self._search is None:
            self._search = make_search(config.negatives, self.pool.texts, config.embedding_model, config.store)
        depth = max(_DEPTH, 5 * config.candidates)
        found = iter(self._search.nearest([question.question for question in needy], depth))
        return [next(found) if self._needs_search(question) else [] for question in batch]

    def _needs_search(self, question: OfficialQuestion) -> bool:
        if self.config.negatives == NO_NEGATIVES:
            return False
        own = len(question.golds) + len(question.others)
        return self.config.setting == "normal" or self.config.form == "nq" or own < self.config.candidates

    def _row(self, question: OfficialQuestion, found: Sequence[int]) -> dict[str, Any] | None:
        golds = [self.pool.add(text) for text in question.golds]
        if self.config.form == "nq":
            golds = [i for i in found if holds_answer(self.pool.texts[i], question.answers)]
        if self.config.setting == "normal":
            own = [self.pool.add(text) for text in (*question.golds, *question.others)]
            numbers = list(dict.fromkeys(found if self._needs_search(question) else own))[: self.config.candidates]
        elif golds:
            golds = golds[:1] if self.config.form == "nq" else golds
            numbers = self._with_negatives(question, golds, found)
        else:
            self.left_out[f"no passage with the answer among the first {len(found)} found"] += 1
            return None
        if not numbers:
            self.left_out["nothing found"] += 1
            return None
        self.counts["rows with fewer candidates"] += len(numbers) < self.config.candidates
        self.counts["rows without a gold document"] += not set(numbers) & set(golds)
        row: dict[str, Any] = {"id": question.id, "question": question.question}
        row["docs"] = [self.pool.texts[number] for number in numbers]
        train = self.config.split == "train"
        row |= {"gold_answer": question.answers[0]} if train else {"answers": list(question.answers)}
        return row | {"pos_index": [i for i, number in enumerate(numbers) if number in golds]}

    def _with_negatives(self, question: OfficialQuestion, golds: Sequence[int], found: Sequence[int]) -> list[int]:
        """Golds, the question's other paragraphs and negatives from the pool, shuffled."""
        chance = random.Random(f"{self.config.seed}/{question.id}/{question.question}")
        golds = list(dict.fromkeys(golds))
        room = self.config.candidates - len(golds)
        others = list(dict.fromkeys(self.pool.add(text) for text in question.others))
        others = [number for number in others if number not in golds]
        if len(others) > room:
            others = chance.sample(others, room)
        taken = [*golds, *others]
        tries = _CHANCES * self.config.candidates if self.config.negatives != NO_NEGATIVES else 0
        drawn = (chance.randrange(len(self.pool)) for _ in range(tries))  # for what the search leaves open
        for source, numbers in (("search", found), ("chance", drawn)):
            before = len(taken)
            for number in numbers:
                if len(taken) >= self.config.candidates:
                    break
                if number not in taken and not holds_answer(self.pool.texts[number], question.answers):
                    taken.append(number)
            self.counts[f"negatives by {source}"] += len(taken) - before
        chance.shuffle(taken)
        return taken


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether the text holds any of the answers word for word; yes, no and blank answers are in no text."""
    words = _words(text)
    wanted = (_words(answer) for answer in answers if answer.strip().lower() not in YES_NO)
    return any(answer.strip() and answer in words for answer in wanted)


@lru_cache(maxsize=1 << 15)
def _words(text: str) -> str:
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return f" {' '.join(words)} "

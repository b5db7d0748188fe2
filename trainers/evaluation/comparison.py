"""One comparison: a checkpoint beside its baselines on one data set, into a folder of records and figures.

``FOLDER/run.json`` holds what was asked for and where it ran, ``SYSTEM.jsonl`` every answer, ``summary.json`` the
figures, ``table.md`` and ``table.csv`` the same for reading. Started again with the same settings, it goes on.

| system | reads | chosen by |
|---|---|---|
| ``clara`` | latents, and as text what the checkpoint says | the checkpoint (before stage 3: as retrieved) |
| ``clara:N`` | the best N passages as text, the others as latents | the same |
| ``wrong``, ``wrong:N`` | as ``clara``, but latents of another question's passages | the same |
| ``shuffled``, ``shuffled:N`` | as ``clara``, but the slots of each passage in a random order | the same |
| ``best`` | the best passage as text, nothing else; by the generator | the same |
| ``text`` | the same passages as text | the same |
| ``closed`` | nothing | |
| ``first`` | text | as retrieved |
| ``bm25`` | text | BM25 |
| ``bi:MODEL``, ``late:MODEL``, ``cross:MODEL`` | text | a sentence-transformers model |
| ``autocompressor``, ``cocom``, ``pcc``, ``xrag``, each ``:MODEL`` too | vectors of their own (`systems`) | the same |
| ``llmlingua``, ``llmlingua:MODEL`` | the passages of ``text``, shortened by LLMLingua-2 | the same |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clara_model.errors import ClaraError
from clara_model.store.cache import durable
from trainers.evaluation import answerers, paraphrase, rankers
from trainers.evaluation import questions as data
from trainers.evaluation.measuring import environment
from trainers.evaluation.questions import Compressed, Pool, Question, Setting
from trainers.evaluation.records import Record, file_name
from trainers.evaluation.runner import Runner, System
from trainers.evaluation.summary import OURS, SHUFFLED, WRONG, Summary, summarize
from trainers.evaluation.systems import SYSTEMS, published_reader
from trainers.processes import of_evaluation

if TYPE_CHECKING:
    from accelerate import PartialState

    from clara_model.inference.clara import Clara

STAGES = ("stage1", "stage1_2", "stage2", "paraphrase")
OF_CHECKPOINT = {"pretrain": "stage1", "instruct": "stage1_2"}
"""What is measured of a checkpoint that cannot rank."""
RUN, SUMMARY = "run.json", "summary.json"
_FREE = ("batch_size", "systems", "docs", "expand")
"""Settings that may differ when a run goes on: they do not change an answer."""
WITH_NUMBER = (OURS, WRONG, SHUFFLED)
PLAIN = (*WITH_NUMBER, "best", "closed", "text", "first", "bm25", "llmlingua", *SYSTEMS)
WITH_MODEL = ("bi", "late", "cross", "llmlingua", *SYSTEMS)
DEFAULT = (*WITH_NUMBER, "closed", "text", "first", "bm25")
RANKING_STAGE = "stage2"


def label(name: str) -> str:
    """The name under which a system is recorded: a model's folder is named by its last two parts."""
    kind, colon, model = name.partition(":")
    return kind + colon + "/".join(Path(model).parts[-2:]) if model and Path(model).is_dir() else name


def check_names(names: Sequence[str]) -> list[str]:
    """The names of systems, each once. Raises `ClaraError`: an unknown one, with those there are."""
    for name in names:
        kind, _, model = name.partition(":")
        numbered = kind in WITH_NUMBER and model.isdecimal()
        if name not in PLAIN and not (kind in WITH_MODEL and model) and not numbered:
            more = ", ".join([*(f"{kind}:N" for kind in WITH_NUMBER), *(f"{kind}:MODEL" for kind in WITH_MODEL)])
            raise ClaraError(f"unknown system {name!r}; there are {', '.join(PLAIN)}, {more}")
    return list(dict.fromkeys(names))


@dataclass
class Systems:
    """Makes systems for one evaluation; a ranker that several use is made once."""

    clara: Clara
    questions: Sequence[Question]
    """All of them, whichever process answers them."""
    budget: answerers.Budget
    as_retrieved: rankers.AsRetrieved
    own: rankers.AsRetrieved | rankers.ByLatents
    """The checkpoint's: as retrieved before stage 3."""
    reader: Clara | None
    """A text reader's checkpoint, in the base model's place."""

    def make(self, name: str) -> System:
        """The system of a name that `check_names` has let through."""
        kind, _, model = name.partition(":")
        clara, budget, reader = self.clara, self.budget, self.reader
        expand = int(model) if model.isdecimal() else None
        ranker: rankers.Ranker | None = self.own
        if kind == OURS:
            reads: answerers.Reader = answerers.FromLatents(clara, budget, expand)
        elif kind == SHUFFLED:
            reads = answerers.FromShuffledLatents(clara, budget, expand)
        elif kind == WRONG:
            reads = answerers.FromWrongLatents(clara, budget, expand, self.questions, self.own)
        elif kind == "best":
            reads = answerers.FromLatents(clara, replace(budget, top_k=1), expand=1)
        elif kind == "llmlingua":
            reads = answerers.FromShortenedText(clara, budget, reader, model or answerers.LLMLINGUA)
        elif kind in SYSTEMS:
            reads = published_reader(kind, model, clara, budget)
        else:
            reads = answerers.FromText(clara, budget, reader, closed=kind == "closed")
            ranker = None if kind == "closed" else self._ranker(kind, model)
        return System(label(name), ranker, reads)

    def _ranker(self, kind: str, model: str) -> rankers.Ranker:
        if kind in ("text", "first"):
            return self.own if kind == "text" else self.as_retrieved
        if kind in ("bi", "late"):
            return rankers.ByVectors(model) if kind == "bi" else rankers.ByLateInteraction(model)
        return rankers.ByCrossEncoder(model, self._bm25) if kind == "cross" else self._bm25

    @cached_property
    def _bm25(self) -> rankers.ByBM25:
        pools = {id(question.pool): question.pool.passages for question in self.questions}
        return rankers.ByBM25([text for pool in pools.values() for text in pool], len(self.questions))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, and how: the flags of ``clara-eval``, whose help says what they mean."""

    dataset: str
    setting: Setting = "normal"
    stage: str | None = None
    systems: tuple[str, ...] = ()
    expand: tuple[int, ...] = ()
    ranking: str | None = None
    copy: bool = False
    top_k: int | None = None
    data: str | None = None
    docs: tuple[str, ...] = ()
    max_samples: int = 0
    max_new_tokens: int = 64
    prompt_tokens: int | None = None
    batch_size: int = 16
    first_answer: bool = False
    known_only: bool = False
    spacy_model: str | None = None

    def __post_init__(self) -> None:
        least = dict.fromkeys(("max_new_tokens", "batch_size", "top_k", "prompt_tokens"), 1) | {"max_samples": 0}
        for name, number in least.items():
            value = getattr(self, name)
            if value is not None and value < number:
                raise ClaraError(f"{name} must be at least {number}, got {value}")
        if self.stage not in (None, *STAGES):
            raise ClaraError(f"stage must be one of {', '.join(STAGES)}, got {self.stage!r}")
        if any(number < 0 for number in self.expand):
            raise ClaraError(f"expand must be numbers of at least 0, got {', '.join(map(str, self.expand))}")
        check_names(self.systems)


@dataclass
class Comparison:
    """A checkpoint with the settings that it is measured under."""

    clara: Clara
    settings: Settings
    folder: Path
    reader: Clara | None = None
    """A text reader's checkpoint on the same base."""
    processes: PartialState = field(default_factory=of_evaluation)
    progress: Callable[[str, int, int], None] = lambda system, done, of: None

    def run(self) -> Summary | None:
        """Measure; the summary on the first process, None on the others. Raises `ClaraError`: what does not fit."""
        settings, stage = self.settings, self.stage
        self._check()
        questions, compressed = self._questions()
        k, most = settings.top_k or self.clara.top_k, settings.max_new_tokens
        budget = answerers.Budget(k, most, settings.prompt_tokens, settings.copy)
        names = settings.systems or (paraphrase.SYSTEMS if stage == "paraphrase" else _plain(questions, stage, budget))
        beside = [kind for kind in (OURS, WRONG) if kind == OURS or kind in names]
        names = (*names, *(f"{kind}:{number}" for number in settings.expand for kind in beside))
        compressed = self._open(questions, compressed)
        device, size = self.clara.model.device, settings.batch_size
        runner = Runner(questions, self.folder, device, size, self.processes, self.progress)
        if stage == "paraphrase":
            ways = {name: paraphrase.answering(name, self.clara, budget, settings.spacy_model) for name in names}
            found = {name: runner.record(name, way) for name, way in ways.items()}
        else:
            as_retrieved = rankers.AsRetrieved(budget.top_k, gold=settings.setting == "oracle")
            own = rankers.ByLatents(self.clara) if stage == RANKING_STAGE else as_retrieved
            made = Systems(self.clara, questions, budget, as_retrieved, own, self.reader)
            systems = [made.make(name) for name in check_names(names)]
            found = {system.name: runner.run(system) for system in systems}
        return self._written(found, questions, compressed) if self.processes.is_main_process else None

    @property
    def stage(self) -> str:
        """What is measured of the checkpoint."""
        of_checkpoint = RANKING_STAGE if self.clara.can_rank else OF_CHECKPOINT[self.clara.model.config.stage]
        return self.settings.stage or of_checkpoint

    def _check(self) -> None:
        if self.stage == RANKING_STAGE and not self.clara.can_rank:
            raise ClaraError(f"{self.clara.name} has no query reasoner to rank with; use --stage stage1 or stage1_2")
        ours = self.clara.model.config.base_model
        theirs = ours if self.reader is None else self.reader.model.config.base_model
        if Path(ours).name != Path(theirs).name:
            stand = f"the text reader stands on {theirs!r} and the checkpoint on {ours!r}"
            raise ClaraError(f"{stand}; compare checkpoints of one base")

    def _questions(self) -> tuple[list[Question], Compressed]:
        """What is asked, and what compressing a corpus for it has taken now."""
        settings, limit = self.settings, self.settings.max_samples
        files = data.find_dataset(settings.dataset, settings.setting, settings.data)
        compressed = Compressed()
        if settings.docs or not data.has_documents(files):
            if settings.setting == "oracle" or self.stage != RANKING_STAGE:
                raise ClaraError(
                    "questions to documents of your own want --setting normal and a checkpoint that ranks "
                    f"(--stage stage2), got {settings.setting} and {self.stage}"
                )
            passages, compressed = self._corpus()
            questions: list[Question] = data.read_own(files, passages, limit)
        else:
            questions = data.read_candidates(files, settings.setting, self.clara.model.tokens.windows, limit)
        if self.stage == "paraphrase":
            questions = paraphrase.texts_of(questions)
            return (questions[:limit] if limit else questions), compressed
        blank = [question.source for question in questions if not question.text]
        if blank:
            raise ClaraError(f"{blank[0]} is a paraphrase row, which has no question; use --stage paraphrase")
        return (data.first_answers(questions) if settings.first_answer else questions), compressed

    def _corpus(self) -> tuple[Pool, Compressed]:
        """The store's passages, once the documents are in it; one process compresses, the others wait."""
        if durable(self.clara.store) is None:
            raise ClaraError("questions without docs need --docs or --store: what they are asked about")
        compressed = Compressed()
        if self.settings.docs and self.processes.is_main_process:
            compressed = data.compress(self.clara, self.settings.docs)
        self.processes.wait_for_everyone()
        return data.stored_pool(self.clara), compressed

    def _open(self, questions: Sequence[Question], compressed: Compressed) -> Compressed:
        """Write down what this evaluation is, unless the folder is another's; what compressing took in all its runs."""
        file = self.folder / RUN
        asked = self._asked(questions)
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            for name in asked:
                then, now = before["asked"].get(name), asked[name]
                if name not in _FREE and then != now:
                    raise ClaraError(
                        f"{self.folder} holds another evaluation: its {name} is {then!r}, this one's {now!r}; use "
                        "another --out or remove the folder"
                    )
            compressed = compressed.after(Compressed(**before["compressed"]))
        elif not questions[0].pool.shared:
            passages = [text for question in questions for text in question.pool.passages]
            compressed = Compressed(kept=data.kept(self.clara, passages))
        self.processes.wait_for_everyone()
        if self.processes.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            where = environment(self.clara.model.device)
            _write_json(file, {"asked": asked, "compressed": asdict(compressed), "environment": where})
        self.processes.wait_for_everyone()
        return compressed

    def _asked(self, questions: Sequence[Question]) -> dict[str, Any]:
        config = self.clara.model.config
        content = sha256()  # tells data sets apart that have the same name
        for one in questions:
            for text in (one.text, *one.references, *(() if one.pool.shared else one.pool.passages)):
                content.update(text.encode("utf-8", "surrogatepass") + b"\0")
        values = {**asdict(self.settings), "stage": self.stage, "top_k": self.settings.top_k or self.clara.top_k}
        return json.loads(json.dumps(values)) | {
            "model": self.clara.name,
            "base": Path(config.base_model).name,
            "fingerprint": self.clara.fingerprint,
            "dtype": str(self.clara.model.base.dtype).removeprefix("torch."),
            "rate": config.compression_rate,
            "slots": config.memory_tokens,
            "text_reader": None if self.reader is None else self.reader.name,
            "questions": len(questions),
            "content": content.hexdigest()[:16],
        }

    def _written(
        self, records: dict[str, list[Record]], questions: Sequence[Question], compressed: Compressed
    ) -> Summary:
        once = self._once(records, questions, compressed)
        run = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
        corpus = questions[0].pool.shared
        whole = {**run, **summarize(records, once=once, known_only=self.settings.known_only, corpus=corpus)}
        _write_json(self.folder / SUMMARY, whole)
        return whole

    def _once(
        self, records: dict[str, list[Record]], questions: Sequence[Question], compressed: Compressed
    ) -> float | None:
        """Seconds of compressing what one question is offered, or the corpus; None where it was in the store before."""
        pool = questions[0].pool
        if pool.shared:  # at the rate of those that were compressed now
            return compressed.seconds * len(pool.passages) / compressed.passages if compressed.passages else None
        spent = [one.seconds.get("compress", 0.0) for one in records.get("clara", []) if not one.failed]
        if not spent or compressed.kept:
            return None
        distinct = len({text for question in questions for text in question.pool.passages})
        offered = sum(len(question.pool.passages) for question in questions) / len(questions)
        return sum(spent) / distinct * offered  # questions may share documents, which are compressed once


def _write_json(file: Path, values: object) -> None:
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(questions: Sequence[Question], stage: str, budget: answerers.Budget) -> tuple[str, ...]:
    """The systems that need no further model, and something to be measured on."""
    pool = questions[0].pool
    unfit = set()
    if pool.shared or stage != RANKING_STAGE:
        unfit.add("first")
    if len({one.cluster for one in questions}) < 2 or (pool.shared and len(pool.passages) <= budget.top_k):
        unfit.add(WRONG)  # no passages of another question
    return tuple(name for name in DEFAULT if name not in unfit)


def folder_of(out: str | Path, clara_name: str, settings: Settings, stage: str) -> Path:
    """Where one evaluation's files go below the folder that was asked for."""
    name = file_name(Path(clara_name).name)
    data = file_name(Path(settings.dataset).name.removesuffix(".gz").removesuffix(".jsonl"))
    return Path(out) / f"{name}_{data}_{settings.setting}_{stage}"

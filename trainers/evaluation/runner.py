"""Questions through the systems, batch by batch, into records; resumable, on one process or several.

`Clara` goes on with smaller batches where memory ends. A batch that fails all the same is tried question by question,
so that one bad question spoils no other; one that fails alone is recorded with its reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from clara_model.errors import ClaraError
from clara_model.inference.batching import is_out_of_memory, release_memory
from trainers.evaluation.answerers import Read, Reader
from trainers.evaluation.measuring import Meter
from trainers.evaluation.metrics import holds_answer, score_answer
from trainers.evaluation.questions import Question
from trainers.evaluation.rankers import Ranked, Ranker
from trainers.evaluation.records import Record, Records
from trainers.processes import of_evaluation

logger = logging.getLogger(__name__)

SHOWN = 300
"""Characters of a passage that a record keeps."""
Answering = Callable[[Sequence[Question], Meter], list[Record]]
Costly = tuple[Ranked, dict[str, float], dict[str, int]]
"""A ranking with its seconds and peak bytes by phase."""
_FAILURES = (ClaraError, ValueError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class System:
    """One of the compared."""

    name: str
    ranker: Ranker | None
    """None where nothing is read."""
    reader: Reader


@dataclass
class Runner:
    """One evaluation's questions and where its records go."""

    questions: Sequence[Question]
    folder: Path
    device: torch.device
    batch_size: int = 16
    processes: PartialState = field(default_factory=of_evaluation)
    progress: Callable[[str, int, int], None] = lambda system, done, of: None
    """Called with a system's name and how many of this process's questions are done."""
    _ranked: dict[tuple[str, int], Costly] = field(default_factory=dict)
    """What rankers that several systems share have given, with its cost; without latents."""

    def run(self, system: System) -> list[Record]:
        """Answer every question that has no answer yet; the records of all, in order, on the first process."""
        return self.record(system.name, lambda questions, meter: self._answered(system, questions, meter), system)

    def record(self, name: str, answering: Answering, system: System | None = None) -> list[Record]:
        """The same with any way of answering; nothing on other processes than the first.
        Raises `ClaraError`: every question failed, with the reason of the first.
        """
        records = Records(self.folder, name, self.processes.process_index)
        done = records.read()
        if system is not None:
            self._remember(system, done)
        mine = self.questions[self.processes.process_index :: self.processes.num_processes]
        todo = [question for question in mine if question.number not in done]
        counted = len(mine) - len(todo)
        for made in self._batches(todo, answering, self.batch_size):
            records.append(made)
            counted += len(made)
            self.progress(name, counted, len(mine))
        self.processes.wait_for_everyone()
        if not self.processes.is_main_process:
            return []
        whole = records.merge(len(self.questions))
        if all(one.failed for one in whole):
            raise ClaraError(f"{name}: every question failed; the first with: {whole[0].error}")
        return whole

    def _batches(self, todo: Sequence[Question], answering: Answering, size: int) -> Iterator[list[Record]]:
        for start in range(0, len(todo), size):
            batch = todo[start : start + size]
            try:
                made = answering(batch, Meter(self.device))
            except _FAILURES as error:
                short, reason = is_out_of_memory(error), f"{type(error).__name__}: {error}"
            else:
                yield made
                continue
            if short:
                release_memory()
            if len(batch) > 1:
                logger.warning("%d questions are tried one by one, since together they failed: %s", len(batch), reason)
                yield from self._batches(batch, answering, 1)
            else:
                logger.warning("%s failed: %s", batch[0].source or f"question {batch[0].number}", reason)
                yield [_base(batch[0], error=reason)]

    def _answered(self, system: System, questions: Sequence[Question], meter: Meter) -> list[Record]:
        ranked = self._rankings(system, questions, meter)
        spent = Meter(self.device)
        read = system.reader.read(questions, [one for one, _, _ in ranked], spent)
        share = spent.share(len(questions))
        made = []
        for question, (order, seconds, peaks), answer in zip(questions, ranked, read, strict=True):
            total = {name: round(seconds.get(name, 0.0) + share.get(name, 0.0), 6) for name in {**seconds, **share}}
            made.append(record_of(question, order, answer, total, {**peaks, **spent.peaks}))
        return made

    def _rankings(self, system: System, questions: Sequence[Question], meter: Meter) -> list[Costly]:
        """Of the system's ranker, or as another system has had them from it."""
        ranker = system.ranker
        if ranker is None:
            return [(Ranked([]), {}, {}) for _ in questions]
        new = [question for question in questions if (ranker.name, question.number) not in self._ranked]
        ranked = ranker.rank(new, meter) if new else []
        fresh = dict(zip((question.number for question in new), ranked, strict=True))
        share, peaks = meter.share(len(new)), dict(meter.peaks)
        self._ranked |= {(ranker.name, number): (Ranked(one.order), share, peaks) for number, one in fresh.items()}
        found = {question.number: self._ranked[ranker.name, question.number] for question in questions}
        return [(fresh.get(number, known), seconds, peaks) for number, (known, seconds, peaks) in found.items()]

    def _remember(self, system: System, done: dict[int, Record]) -> None:
        if system.ranker is None:
            return
        for number, one in done.items():
            seconds = {name: value for name, value in one.seconds.items() if name != "generate"}
            peaks = {name: value for name, value in one.peak_bytes.items() if name != "generate"}
            self._ranked.setdefault((system.ranker.name, number), (Ranked(one.order), seconds, peaks))


def _base(question: Question, **values: Any) -> Record:
    return Record(
        number=question.number,
        question=question.text,
        references=list(question.references),
        positives=list(question.positives),
        cluster=question.cluster,
        source=question.source,
        **values,
    )


def record_of(
    question: Question,
    ranked: Ranked,
    answer: Read,
    seconds: dict[str, float] | None = None,
    peaks: dict[str, int] | None = None,
    *,
    read: Ranked | None = None,
) -> Record:
    """One answered question with its scores; ``read`` is what it was read from, where that was not the ranking."""
    pool, text = question.pool, answer.written.text.strip()
    chosen = (read or ranked).order[: answer.passages]
    holding = (
        place
        for place, passage in enumerate(ranked.order, start=1)
        if any(holds_answer(pool.passages[passage], reference) for reference in question.references)
    )
    return _base(
        question,
        answer=text,
        scores=score_answer(text, question.references),
        order=ranked.order,
        ranking=[] if answer.instead else pool.ranking(ranked.order),
        read=[] if answer.instead else [pool.documents[passage] for passage in chosen],
        shown=[text[:SHOWN] for text in answer.instead or [pool.passages[passage] for passage in chosen]],
        left_out=answer.left_out,
        answer_at=None if answer.instead else next(holding, None),
        seconds=seconds or {},
        peak_bytes=peaks or {},
        prompt_tokens=answer.written.prompt_tokens,
        text_tokens=answer.text_tokens,
        completion_tokens=answer.written.completion_tokens,
        finish_reason=answer.written.finish_reason,
    )

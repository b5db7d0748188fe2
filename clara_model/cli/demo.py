"""`clara demo`: a bundled model answers questions about bundled documents, beside the same model reading their text.

The set is a JSON file: `{"documents": [{"title", "text"}, ..], "questions": [{"question", "answer"}, ..]}`; `answer` is
a string, or a list of strings that all count as right; an empty list where no document answers.
"""

from __future__ import annotations

import argparse
import string
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.text import Text

from clara_model.checkpoint.bundled_models import BUNDLED
from clara_model.checkpoint.config import read_json
from clara_model.console import tables
from clara_model.console.command import load, output, print_json, working
from clara_model.defaults import NO_ANSWER
from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.inference.clara import Answer, Clara

BUNDLED_SET = BUNDLED / "demo.json"
"""Documents of the invented world that `clara-tiny` knows."""


@dataclass(frozen=True, kw_only=True)
class DemoSet:
    """Documents, and questions about them with their accepted answers."""

    titles: list[str]
    texts: list[str]
    questions: list[str]
    answers: list[list[str]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a set.

        Raises:
            FileNotFoundError: no such file.
            ClaraError: not of the form above.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist.")
        values = read_json(path)
        try:
            documents, questions = values["documents"], values["questions"]
            found = cls(
                titles=[str(document["title"]) for document in documents],
                texts=[str(document["text"]) for document in documents],
                questions=[str(entry["question"]) for entry in questions],
                answers=[_as_list(entry["answer"]) for entry in questions],
            )
        except (KeyError, TypeError) as error:
            raise ClaraError(f"{path} is not a set of documents and questions: {error!r}.") from None
        if not found.texts or not found.questions:
            raise ClaraError(f"{path} needs at least one document and one question.")
        return found

    def names(self) -> list[str]:
        """One for each document, no two alike: its title, with a number where several passages share it."""
        places = [self.titles[: index + 1].count(title) for index, title in enumerate(self.titles)]
        return [
            title if self.titles.count(title) == 1 else f"{title}, passage {place}"
            for title, place in zip(self.titles, places, strict=True)
        ]


def set_of(model: str) -> Path:
    """The set of a bundled model that has one of its own, else `clara-tiny`'s."""
    own = BUNDLED / Path(model).name / "demo.json"
    return own if own.is_file() else BUNDLED_SET


@dataclass(frozen=True)
class Shown:
    """A question with its answer, and with that of the same model reading all that it is given as text."""

    question: str
    accepted: list[str]
    answer: Answer
    text: Answer | None
    """None with a model that was not trained to read text."""

    @property
    def right(self) -> bool:
        """Whether the answer is."""
        return self._is_right(self.answer)

    @property
    def text_right(self) -> bool:
        """Whether that from text is."""
        return self.text is not None and self._is_right(self.text)

    def _is_right(self, answer: Answer) -> bool:
        return is_right(answer.text, self.accepted) if self.accepted else not answer.found(0.0)


def is_right(answer: str, accepted: list[str]) -> bool:
    """Whether the answer equals an accepted one, letter case, end punctuation and spaces aside."""
    return _plain(answer) in map(_plain, accepted)


def run(args: argparse.Namespace) -> None:
    """Ask every question of the model's set and show what comes back."""
    examples = DemoSet.read(set_of(args.model))
    if args.png:
        tables.check_pictures()
        args.png.parent.mkdir(parents=True, exist_ok=True)
    clara = load(args)
    out, talk = output(), not (args.json or args.quiet)
    if talk:
        documents = f"{len(examples.texts)} documents, {len(examples.questions)} questions"
        out.print(Text.assemble((args.model, "bold"), f" on {documents}; the documents are compressed once"))
    shown: list[Shown] = []
    for one in _asked(args, clara, examples):
        if talk:
            _show(out, examples, one, first=not shown)
        shown.append(one)
    if args.png:
        title = f"{args.model}: {len(shown)} questions to {len(examples.texts)} documents"
        marked = [(one.question, one.answer, one.right) for one in shown]
        tables.save_picture(args.png, title, marked)
    if args.json:
        print_json(_record(args, examples, shown))
        return
    out.print()
    out.print(_sum_up(shown))
    if args.png:
        out.print(f"Scores and times as a picture: {args.png}")


def _asked(args: argparse.Namespace, clara: Clara, examples: DemoSet) -> Iterator[Shown]:
    from clara_model.inference.clara import Clara

    reads = bool(clara.model.config.expand)
    top_k = args.top_k or clara.model.config.top_k
    reader = Clara(clara.model, store=clara.store, expand=top_k) if reads else None
    for question, accepted in zip(examples.questions, examples.answers, strict=True):
        with working(question, args):
            answer = clara.answer(question, examples.texts, top_k)
            text = reader.answer(question, examples.texts, top_k) if reader else None
        yield Shown(question, accepted, answer, text)


def _show(out: Console, examples: DemoSet, one: Shown, *, first: bool) -> None:
    """One question; the documents were compressed for the first."""
    answer = one.answer
    out.print()
    out.print(Text(one.question, style="bold"))
    expected = one.accepted[0] if one.accepted else NO_ANSWER
    verdict = ("  right", "green") if one.right else (f"  expected {expected}", "red")
    out.print(Text.assemble("→ ", tables.answer_text(answer), verdict))
    read = set(answer.selected)
    best = answer.ranking[: len(read) + 2]
    rows = [(r.score, examples.titles[r.index], examples.texts[r.index], r.index in read) for r in best]
    out.print(tables.ranking(rows, out.width))
    out.print(tables.support(answer, examples.texts, examples.titles))
    out.print(tables.costs(answer, len(examples.texts), compressed=first))
    if one.text is not None:
        same = "right" if one.text_right else "wrong"
        seconds = tables.seconds(one.text.timings.generate)
        line = f"read as text: {tables.answer_text(one.text).plain} ({same}; prompt of {one.text.usage.prompt_tokens} "
        out.print(Text(f"{line}instead of {answer.usage.prompt_tokens} positions, generate {seconds})", style="dim"))


def _sum_up(shown: Sequence[Shown]) -> str:
    usages = [one.answer.usage for one in shown]
    whole, letters, slots = (
        sum(getattr(usage, name) for usage in usages) for name in ("text_tokens", "expanded_tokens", "slots")
    )
    read = f"{letters:,} tokens were read as text, " if letters else ""
    line = f"{sum(one.right for one in shown)} of {len(shown)} answers right; {read}"
    line += f"{whole - letters:,} tokens of text as {slots:,} slots."
    texts = [one.text for one in shown if one.text is not None]
    if texts:
        prompt = sum(text.usage.prompt_tokens for text in texts) / sum(usage.prompt_tokens for usage in usages)
        spent = sum(text.timings.generate for text in texts) / sum(one.answer.timings.generate for one in shown)
        line += f" All as text: {sum(one.text_right for one in shown)} right, {prompt:.1f}x the prompt, "
        line += f"{spent:.1f}x the time to generate."
    return line


def _record(args: argparse.Namespace, examples: DemoSet, shown: Sequence[Shown]) -> dict[str, Any]:
    return {
        "model": args.model,
        "documents": len(examples.texts),
        "right": sum(one.right for one in shown),
        "picture": str(args.png) if args.png else None,
        "questions": [_question_record(examples, one) for one in shown],
    }


def _question_record(examples: DemoSet, one: Shown) -> dict[str, Any]:
    answer, text = one.answer, one.text
    return {
        "question": one.question,
        "answer": answer.text,
        "accepted": one.accepted,
        "right": one.right,
        "found": answer.found(0.0),
        "confidence": answer.confidence,
        "quotes": [asdict(quote) for quote in answer.quotes],
        "unsupported": answer.unsupported,
        "ranking": [{"title": examples.titles[r.index], "score": r.score} for r in answer.ranking],
        "read": [examples.titles[index] for index in answer.selected],
        "usage": asdict(answer.usage),
        "timings": asdict(answer.timings),
        "as_text": text and {
            "answer": text.text, "right": one.text_right, "usage": asdict(text.usage), "timings": asdict(text.timings)
        },
    }  # fmt: skip


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(string.punctuation + " ")


def _as_list(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]

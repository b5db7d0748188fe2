"""The bundled documents that `clara demo` asks questions about: a JSON file of documents, questions and their answers.

`{"documents": [{"title", "text"}, ..], "questions": [{"question", "answer"}, ..]}`; `answer` is a string, or a list of
strings that all count as right.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from clara_model.checkpoint.bundled_models import BUNDLED
from clara_model.checkpoint.config import read_json
from clara_model.errors import ClaraError

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


def is_right(answer: str, accepted: list[str]) -> bool:
    """Whether the answer equals an accepted one, letter case, end punctuation and spaces aside."""
    return _plain(answer) in map(_plain, accepted)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(string.punctuation + " ")


def _as_list(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]

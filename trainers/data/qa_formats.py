"""The official files of HotpotQA, 2WikiMultiHopQA, MuSiQue and Natural Questions (NQ-open), read into questions.

HotpotQA and 2WikiMultiHopQA: a JSON list with ``context`` ``[[title, [sentence, ..]], ..]`` and ``supporting_facts``
``[[title, sentence number], ..]``. MuSiQue: JSON lines with ``paragraphs`` marked ``is_supporting``. NQ-open: JSON
lines with ``question`` and a list ``answer``; its passages are a TSV file ``id, text, title`` (as DPR's psgs_w100.tsv).
All may be gzipped. A paragraph becomes ``title``, newline, ``text``. Leaves out the sentence level, question
decompositions, and 2WikiMultiHopQA's separate file of answer aliases.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from clara_model.errors import ClaraError
from trainers.data.jsonl import decode

YES_NO = ("yes", "no", "noanswer")


@dataclass(frozen=True, kw_only=True)
class Question:
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


def read_questions(path: Path, form: str) -> Iterator[Question]:
    """The questions of an official file.

    Args:
        path: the file.
        form: a name in `FORMATS`.

    Raises:
        ClaraError: no such file, or its form is another one, with the item that shows it.
    """
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

    JSON lines hold ``text`` or ``contents``, and a ``title`` if there is one.

    Raises:
        ClaraError: no such file, or a line of another form.
    """
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        for place, record in _json_lines(path):
            values = _object(record, place)
            text = values.get("text", values.get("contents"))
            if not isinstance(text, str):
                raise ClaraError(f'{place} must have a string "text" or "contents"')
            yield paragraph(str(values.get("title") or ""), text)
        return
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip("\r\n").split("\t")
            if number == 1 and fields[:2] == ["id", "text"]:
                continue
            if len(fields) not in (2, 3):
                raise ClaraError(
                    f"{path}:{number} must be 'id, text, title' with tabs between, got {len(fields)} fields"
                )
            yield paragraph(_unquoted(fields[2]) if len(fields) == 3 else "", _unquoted(fields[1]))


def paragraph(title: str, text: str) -> str:
    """A document's text: its title on a line of its own, then the text."""
    return f"{title.strip()}\n{text.strip()}".strip()


# -- formats ----------------------------------------------------------------------------------------------------


def _hotpotqa(values: Mapping[str, Any], place: str) -> Question:
    titles = {title for title, *_ in values.get("supporting_facts", [])}
    context = [(title, paragraph(title, "".join(_spaced(sentences)))) for title, sentences in values["context"]]
    return Question(
        id=str(values.get("_id", Path(place).name)),
        question=_string(values["question"]),
        answers=(_string(values["answer"]),) if values.get("answer") else (),
        golds=tuple(text for title, text in context if title in titles),
        others=tuple(text for title, text in context if title not in titles),
        golds_missing=not titles <= {title for title, _ in context},
    )


def _spaced(sentences: list[str]) -> Iterator[str]:
    """Sentences with one space between them, whether or not the file has it in front of each."""
    for number, sentence in enumerate(sentences):
        yield sentence if number == 0 or sentence[:1].isspace() else f" {sentence}"


def _musique(values: Mapping[str, Any], place: str) -> Question:
    paragraphs = [
        (bool(item.get("is_supporting")), paragraph(item["title"], item["paragraph_text"]))
        for item in values["paragraphs"]
    ]
    main = [_string(values["answer"])] if values.get("answer") else []
    return Question(
        id=str(values.get("id", Path(place).name)),
        question=_string(values["question"]),
        answers=tuple(dict.fromkeys([*main, *map(_string, values.get("answer_aliases", []))])),
        golds=tuple(text for gold, text in paragraphs if gold),
        others=tuple(text for gold, text in paragraphs if not gold),
        answerable=bool(values.get("answerable", True)),
    )


def _nq(values: Mapping[str, Any], place: str) -> Question:
    answers = values.get("answer", [])
    if not isinstance(answers, list):
        raise ClaraError('"answer" must be a list of strings in NQ-open')
    return Question(
        id=str(values.get("id", Path(place).name)),
        question=_string(values["question"]),
        answers=tuple(dict.fromkeys(map(_string, answers))),
    )


# -- files ------------------------------------------------------------------------------------------------------


def _json_list(path: Path) -> Iterator[tuple[str, object]]:
    """Items of a file that is one JSON list, named by their number from 1."""
    with _open(path) as file:
        try:
            values = decode(file.read())
        except ClaraError as error:
            raise ClaraError(f"{path} must be one JSON list, but is {error}") from error
    if not isinstance(values, list):
        raise ClaraError(f"{path} must be one JSON list, got {type(values).__name__}")
    for number, value in enumerate(values, start=1):
        yield f"{path}, item {number}", value


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    value = decode(line)
                except ClaraError as error:
                    raise ClaraError(f"{path}:{number} is {error}") from error
                yield f"{path}:{number}", value


def _open(path: Path) -> IO[str]:
    try:
        if path.suffix == ".gz":
            return cast(IO[str], gzip.open(path, "rt", encoding="utf-8", newline="\n"))
        return path.open(encoding="utf-8", newline="\n")
    except OSError as error:
        raise ClaraError(f"{path} could not be read ({error.strerror})") from error


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


FORMATS: dict[
    str,
    tuple[Callable[[Path], Iterator[tuple[str, object]]], Callable[[Mapping[str, Any], str], Question]],
] = {
    "hotpotqa": (_json_list, _hotpotqa),
    "2wiki": (_json_list, _hotpotqa),
    "musique": (_json_lines, _musique),
    "nq": (_json_lines, _nq),
}

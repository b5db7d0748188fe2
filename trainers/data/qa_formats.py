"""The official files of HotpotQA, 2WikiMultiHopQA, MuSiQue and Natural Questions (NQ-open), read into questions.

HotpotQA and 2WikiMultiHopQA: a JSON list with ``context`` ``[[title, [sentence, ..]], ..]`` and ``supporting_facts``
``[[title, sentence number], ..]``. MuSiQue: JSON lines with ``paragraphs`` marked ``is_supporting``. NQ-open: JSON
lines with ``question`` and a list ``answer``; its passages are a TSV file ``id, text, title`` (as DPR's psgs_w100.tsv).
All may be gzipped. A paragraph becomes ``title``, newline, ``text``. Leaves out the sentence level, question
decompositions, and 2WikiMultiHopQA's separate file of answer aliases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clara_model.errors import ClaraError
from trainers.data.jsonl import decode, lines_of, opened, values_of

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
    """The questions of an official file; ``form`` is a name in `FORMATS`.

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


def paragraph(title: str, text: str) -> str:
    """A document's text: its title on a line of its own, then the text."""
    return f"{title.strip()}\n{text.strip()}".strip()


def _hotpotqa(values: Mapping[str, Any], place: str) -> Question:
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


def _musique(values: Mapping[str, Any], place: str) -> Question:
    given = values["paragraphs"]
    paragraphs = [(bool(one.get("is_supporting")), paragraph(one["title"], one["paragraph_text"])) for one in given]
    main = [values["answer"]] if values.get("answer") else []
    answers = [*main, *values.get("answer_aliases", [])]
    return _question(values, "id", place, answers, paragraphs, answerable=bool(values.get("answerable", True)))


def _nq(values: Mapping[str, Any], place: str) -> Question:
    answers = values.get("answer", [])
    if not isinstance(answers, list):
        raise ClaraError('"answer" must be a list of strings in NQ-open')
    return _question(values, "id", place, answers, [])


def _question(
    values: Mapping[str, Any], key: str, place: str, answers: Sequence[Any], paragraphs: Sequence[tuple[bool, str]],
    **more: bool,
) -> Question:  # fmt: skip
    """Of its accepted answers, the main one first and maybe none, and its paragraphs, each with whether it is gold."""
    return Question(
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
FORMATS: dict[str, tuple[Reading, Callable[[Mapping[str, Any], str], Question]]] = {
    "hotpotqa": (_json_list, _hotpotqa),
    "2wiki": (_json_list, _hotpotqa),
    "musique": (values_of, _musique),
    "nq": (values_of, _nq),
}

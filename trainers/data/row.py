"""One training or evaluation row: what it holds, and how a decoded line of any of the published formats becomes one.

Formats: stage 1 ``{"data_type": "qa" | "paraphrase", "question": [..], "answers": [..], "docs": [..]}``; stages 2 and 3
and evaluation ``{"question", "docs", "gold_answer" | "answer" | "answers" | "golden_answers", "pos_index"?}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clara_model.errors import ClaraError

if TYPE_CHECKING:
    from clara_model.modeling.objectives import Stage

Kind = Literal["qa", "paraphrase"]
DOCUMENTS = ("docs", "context", "content")
RANKED: tuple[Stage, ...] = ("end_to_end", "pretrain_retrieval")
"""Stages whose rows are one question with its candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training or evaluation example."""

    documents: tuple[str, ...]
    """At least one; the candidates in stage 3."""
    questions: tuple[str, ...]
    """One in stages 2 and 3, any number in stage 1, none in a paraphrase row."""
    answers: tuple[str, ...]
    """What is learned: one answer per question, or the paraphrase."""
    kind: Kind = "qa"
    positives: tuple[int, ...] = ()
    """Gold documents as indices of ``documents``, where known."""
    references: tuple[str, ...] = ()
    """Accepted answers of a single question, for evaluation."""
    source: str = ""
    """``file:line``."""


def parse_row(values: object, source: str = "", *, prefer_gold: bool = False) -> Row:
    """Check and convert one decoded line; with ``prefer_gold`` (stage 3, evaluation) ``gold_answer`` is learned where a
    row also has an ``answer`` written by a model.
    Raises `ClaraError`: what is wrong with the row, in one sentence without its source.
    """
    if not isinstance(values, dict):
        raise ClaraError(f"a row must be a JSON object, got {type(values).__name__}")
    documents = _documents(values)
    kind = values.get("data_type", "qa")
    if kind not in ("qa", "paraphrase"):
        raise ClaraError(f'"data_type" must be "qa" or "paraphrase", got {kind!r}')
    answers = _answers(values, prefer_gold)
    if kind == "paraphrase":
        return Row(documents=documents, questions=(), answers=answers[:1], kind="paraphrase", source=source)
    questions = _questions(values)
    if isinstance(values["question"], list):
        if len(questions) != len(answers):
            raise ClaraError(f"{len(questions)} questions need as many answers, got {len(answers)}")
        return Row(documents=documents, questions=questions, answers=answers, source=source)
    return Row(
        documents=documents,
        questions=questions,
        answers=answers[:1],
        positives=_positives(values, len(documents)),
        references=_references(values, answers),
        source=source,
    )


def unfit(row: Row, stage: Stage, documents: int) -> str:
    """Why a stage cannot learn from a row; empty where it can.

    In stage 1 every document of a row must fit into ``documents``, the ``generation_top_k``.
    """
    if stage in RANKED and row.kind == "paraphrase":
        return "a paraphrase, but stage 3 wants a question in each row"
    if stage in RANKED and len(row.questions) != 1:
        return f"{len(row.questions)} questions, but stage 3 wants one in each row"
    if stage == "pretrain" and len(row.documents) > documents:
        said = f"{len(row.documents)} documents, but stage 1 reads them all and generation_top_k is {documents}"
        return f"{said}; raise it, or leave the row out"
    return ""


def _documents(values: dict[str, Any]) -> tuple[str, ...]:
    for name in DOCUMENTS:
        if isinstance(values.get(name), list):
            return _strings(values[name], name)
    found = values.get("docs")
    hint = "" if found is not None else "; clara-data retrieve takes documents from a store"
    raise ClaraError(f'"docs" must be a list of strings, got {type(found).__name__}{hint}')


def _questions(values: dict[str, Any]) -> tuple[str, ...]:
    question = values.get("question")
    if isinstance(question, str):
        return (question,)
    if isinstance(question, list):
        return _strings(question, "question")
    raise ClaraError(f'"question" must be a string or a list of strings, got {type(question).__name__}')


def _answers(values: dict[str, Any], prefer_gold: bool) -> tuple[str, ...]:
    names = ["answer", "answers", "golden_answers", "gold_answer"]
    names.sort(key=lambda name: name != "gold_answer" if prefer_gold else False)
    for name in names:
        found = values.get(name)
        if isinstance(found, str) and name in ("answer", "gold_answer"):
            return (found,)
        if isinstance(found, list) and name in ("answers", "golden_answers", "gold_answer"):
            return _strings(found, name)
    got = {name: type(values[name]).__name__ for name in names if name in values}
    raise ClaraError(f'an "answer" string or an "answers" list is needed, got {got or "none"}')


def _references(values: dict[str, Any], answers: tuple[str, ...]) -> tuple[str, ...]:
    """Every accepted answer, the learned one first unless a model wrote it."""
    found: list[str] = [] if "gold_answer" in values else list(answers)
    for name in ("gold_answer", "golden_answers", "answers"):
        value = values.get(name)
        found += [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(dict.fromkeys(text for text in found if isinstance(text, str))) or answers


def _positives(values: dict[str, Any], documents: int) -> tuple[int, ...]:
    found = values.get("pos_index") or []
    found = [found] if isinstance(found, int) and not isinstance(found, bool) else found
    if not isinstance(found, list) or any(not isinstance(i, int) or isinstance(i, bool) for i in found):
        raise ClaraError(f'"pos_index" must be a list of whole numbers, got {found!r}')
    if beyond := [i for i in found if i >= documents]:
        raise ClaraError(f'"pos_index" holds {beyond[0]}, but there are {documents} documents (counted from 0)')
    return tuple(dict.fromkeys(i for i in found if i >= 0))


def _strings(values: list[Any], name: str) -> tuple[str, ...]:
    if not values:
        raise ClaraError(f'"{name}" must hold at least one string, got an empty list')
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise ClaraError(f'"{name}" must hold only strings, got {type(wrong[0]).__name__}')
    return tuple(values)

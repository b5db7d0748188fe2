"""What a chat model wrote back, read into question-answer pairs, verdicts and paraphrases.

Models add code fences, reasoning, greetings and numbering, and are cut off; whatever can be read is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_REASONING = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_NOTHING = {"none", "nothing", "covered", "everything is covered", "no further questions", "n a"}
_LIST_MARK = re.compile(r"^(?:[-*\u2022]\s+|\(?\d{1,3}[.):]\s*)")
_QUESTION_LABEL = re.compile(r"^(?:question|q)\s*\d*\s*[:.)]\s*", re.IGNORECASE)
_ANSWER_LABEL = re.compile(r"(?:^|\s)(?:[Aa]nswer|ANSWER|A)\s*\d*\s*:\s*")
_QUESTION_THEN_ANSWER = re.compile(r"(?P<question>.*?\?)[\s:|\u2192\u2013\u2014-]*(?P<answer>.*)")
_VERDICT_FIRST = re.compile(r"\W*(yes|no)\b")
_VERDICT_LAST = re.compile(r"\b(yes|no)\W*$")
_VERDICT_JSON = re.compile(r"\W*\{\s*\"\w+\"\s*:\s*\"?(yes|no|true|false)\b")
_LEAD_IN = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok)\b[^\n:]{0,40}[,!.]\s*)?"
    r"(?:here(?:'s|\u2019s| is)|(?:the )?(?:paraphrase|rewritten))\b[^\n:]{0,60}:\s",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "\u201c": "\u201d", "'": "'"}


class MalformedReply(ValueError):
    """A reply that does not hold what was asked for; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer, neither of them blank."""

    question: str
    answer: str


def read_pairs(reply: str) -> list[Pair]:
    """The pairs of a reply: JSON of any common shape, JSON lines, a numbered or labelled list; else `MalformedReply`.

    None where the reply says that there is nothing more to ask (``[]``, "none").
    """
    text = _bare(reply)
    values = list(_json_values(text))
    pairs = [pair for value in values for pair in _pairs_of(value)]
    if not pairs and not any("{" in json.dumps(value) for value in values):
        pairs = list(_pairs_of_lines(text))
    if pairs or any(map(_is_empty, values)) or " ".join(re.findall(r"\w+", text.lower())) in _NOTHING:
        return pairs
    raise MalformedReply("neither JSON nor a list of questions and answers")


def read_verdict(reply: str) -> bool:
    """A reply's yes or no: its first or last word, or a JSON object's one value; else a `MalformedReply`."""
    text = _bare(reply).lower()
    found = {match[1] for match in (_VERDICT_FIRST.match(text), _VERDICT_LAST.search(text)) if match}
    if not found and (match := _VERDICT_JSON.match(text)):
        found = {match[1]}
    if len(found) != 1:
        raise MalformedReply("no clear yes or no")
    return found <= {"yes", "true"}


def read_paraphrase(reply: str, document: str) -> str:
    """The paraphrase in a reply, and nothing around it; no text, or the document itself, is a `MalformedReply`."""
    text = _bare(reply)
    values = [value for value in _json_values(text) if isinstance(value, dict) and len(value) == 1]
    only = next(iter(values[0].values())) if values else None
    text = only.strip() if isinstance(only, str) else _LEAD_IN.sub("", text, count=1).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    if not text:
        raise MalformedReply("no text")
    if text.split() == document.split():
        raise MalformedReply("the document itself, not a paraphrase")
    return text


def _bare(reply: str) -> str:
    """The reply without code fences and reasoning, which is all of it where it was cut off in the middle of that."""
    text = _FENCE.sub("", _REASONING.sub("", reply)).strip()
    return "" if text.startswith("<think") else text


def _json_values(text: str) -> Iterator[object]:
    """Every JSON list and object in the text, outermost first; of a list that was cut off, its whole objects."""
    decoder, position = json.JSONDecoder(), 0
    while opening := re.compile(r"[\[{]").search(text, position):
        try:
            value, position = decoder.raw_decode(text, opening.start())
        except (json.JSONDecodeError, RecursionError):
            position = opening.end()
            continue
        yield value


def _is_empty(value: object) -> bool:
    inside = list(value.values()) if isinstance(value, dict) else value
    return isinstance(inside, list) and all(map(_is_empty, inside))


def _pairs_of(value: object) -> Iterator[Pair]:
    """Pairs in a decoded value: objects with a question and an answer, two parallel lists, or a list of such."""
    if isinstance(value, list):
        for item in value:
            yield from _pairs_of(item)
    elif isinstance(value, dict):
        by_name = {str(name).lower().rstrip("s"): item for name, item in value.items()}
        question, answer = (_first(by_name, *names) for names in (("question", "q"), ("answer", "a")))
        if isinstance(question, list) and isinstance(answer, list):
            for pair in zip(question, answer, strict=False):
                yield from _pair(*pair)
        elif question is not None and answer is not None:
            yield from _pair(question, answer)
        else:
            for item in value.values():
                if isinstance(item, (list, dict)):
                    yield from _pairs_of(item)


def _first(values: Mapping[str, object], *names: str) -> object:
    return next((values[name] for name in names if name in values), None)


def _pair(question: object, answer: object) -> Iterator[Pair]:
    """One pair where both sides are text, or numbers, truth values and lists that can be written as text."""
    texts = [_text(side) for side in (question, answer)]
    if all(texts):
        yield Pair(*texts)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    return ", ".join(filter(None, map(_text, value))) if isinstance(value, list) else ""


def _pairs_of_lines(text: str) -> Iterator[Pair]:
    """Pairs of a list in words: `1. Who ...? Ann`, `Q: ... A: ...`, or the answer on a line of its own."""
    question = ""
    for line in text.splitlines():
        line = _LIST_MARK.sub("", line.replace("**", "").strip())
        line, labelled = _QUESTION_LABEL.subn("", line)
        if answer := _ANSWER_LABEL.search(line):
            yield from _pair(line[: answer.start()] or question, line[answer.end() :])
            question = ""
        elif match := _QUESTION_THEN_ANSWER.fullmatch(line):
            yield from _pair(match["question"], match["answer"])
            question = "" if match["answer"] else match["question"]
        elif line:
            yield from () if labelled else _pair(question, line)
            question = line if labelled else ""

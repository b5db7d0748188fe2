"""Checks of what a caller asks for: questions, candidates, numbers, sampling. Errors are a sentence with the value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, get_args

import torch

from clara_model.checkpoint.config import MAX_NEW_TOKENS
from clara_model.checkpoint.options import ClaraOptions, Cold, GenerationKeywords, LongDocuments, Ranking
from clara_model.checkpoint.prompts import Prompt
from clara_model.latents import Latents

Documents = Sequence[str] | Latents
"""Candidates: their texts, or their latents where they have been compressed before."""


@dataclass(frozen=True)
class _Kind:
    """What a sampling argument may be."""

    name: str
    fits: Callable[[Any], bool]
    values: str = ""
    holds: Callable[[Any], bool] = lambda _: True


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(values: str, holds: Callable[[Any], bool]) -> _Kind:
    return _Kind("a number", _is_number, values, lambda value: math.isfinite(value) and holds(value))


_SHARE = _number("above 0 and at most 1", lambda value: 0 < value <= 1)
_COUNT = _Kind("a whole number", _is_whole, "at least 0", lambda value: value >= 0)
_KINDS = {
    "do_sample": _Kind("True or False", lambda value: isinstance(value, bool)),
    "temperature": _number("at least 0", lambda value: value >= 0),
    "top_p": _SHARE,
    "sampling_top_k": _COUNT,
    "min_p": _number("from 0 to 1", lambda value: 0 <= value <= 1),
    "typical_p": _SHARE,
    "repetition_penalty": _number("above 0", lambda value: value > 0),
    "no_repeat_ngram_size": _COUNT,
    "min_new_tokens": _COUNT,
    "num_beams": _Kind("a whole number", _is_whole, "at least 1", lambda value: value >= 1),
    "length_penalty": _number("finite", lambda _: True),
    "early_stopping": _Kind("True, False or 'never'", lambda value: isinstance(value, bool) or value == "never"),
    "seed": _Kind("a whole number", _is_whole, "from 0 to 2**63 - 1", lambda value: 0 <= value < 2**63),
}
SAMPLING = tuple(_KINDS)
"""Sampling arguments by transformers' names; its ``top_k`` is ``sampling_top_k`` (``top_k`` counts documents)."""

_DRAWING = ("temperature", "top_p", "sampling_top_k", "min_p", "typical_p")
"""Arguments that say how to draw, and so have no place where nothing is drawn."""
_ROLE = re.compile("[A-Za-z][A-Za-z0-9_-]*")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def check_text(text: object, what: str) -> str:
    """The text as a plain string, if it is one; of a member of a string enumeration, its value."""
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a string, got {type(text).__name__} ({_shown(text)})")
    return str.__str__(text)


def _shown(value: object) -> str:
    """A value in an error, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_texts(texts: object, what: str = "document") -> list[str]:
    """A list of texts: at least one; each may be empty."""
    if isinstance(texts, str):
        raise TypeError(f"expected a list of {what}s, got one string; put it in a list")
    if not isinstance(texts, Sequence) or isinstance(texts, (bytes, bytearray)):
        raise TypeError(f"expected a list of {what}s, got {type(texts).__name__} ({_shown(texts)})")
    if not texts:
        raise ValueError(f"expected at least one {what}, got none")
    return [check_text(text, f"{what} {number} of {len(texts)}") for number, text in enumerate(texts, start=1)]


def check_documents(documents: object) -> list[str] | Latents:
    """The candidates of one question: at least one."""
    if not isinstance(documents, Latents):
        return check_texts(documents)
    if not len(documents):
        raise ValueError("expected the latents of at least one document, got none")
    return documents


def check_question(question: object) -> str:
    """A question that says something."""
    text = check_text(question, "question")
    if not text.strip():
        raise ValueError(f"the question is blank ({_shown(text)}); ask something")
    return text


def check_pairs(pairs: object) -> list[tuple[str, str]]:
    """Pairs of a question that says something and a text: at least one."""
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        raise TypeError(f"expected a list of pairs (question, text), got {type(pairs).__name__} ({_shown(pairs)})")
    if not pairs:
        raise ValueError("expected at least one pair (question, text), got none")
    for number, pair in enumerate(pairs, start=1):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise TypeError(f"pair {number} of {len(pairs)} must be (question, text), got {_shown(pair)}")
    return [(check_question(question), check_text(text, "text")) for question, text in pairs]


def check_rows(texts: object, questions: int) -> list[list[str] | Latents]:
    """The candidates of each question, which are one and the same object where all questions share them."""
    if isinstance(texts, Latents) or not _is_rows(texts):
        return [check_documents(texts)] * questions
    assert isinstance(texts, Sequence)
    if len(texts) != questions:
        raise ValueError(f"need a list of documents for each question, got {len(texts)} for {questions} questions")
    rows = []
    for index, row in enumerate(texts):
        try:
            rows.append(check_documents(row))
        except (TypeError, ValueError) as error:
            raise type(error)(f"question {index}: {error}") from None
    return rows


def _is_rows(texts: object) -> bool:
    if not isinstance(texts, Sequence) or isinstance(texts, str):
        return False
    return any(isinstance(row, Latents) or (isinstance(row, Sequence) and not isinstance(row, str)) for row in texts)


def check_turns(prompt: object) -> list[Mapping[str, str]]:
    """The conversation that a prompt is: one user's turn, or messages with a role and a content."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": str.__str__(prompt)}]
    if not isinstance(prompt, Sequence):
        raise TypeError(f"expected a prompt or a list of messages, got {type(prompt).__name__}")
    if not prompt:
        raise ValueError("expected at least one message, got none")
    for turn in prompt:
        if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
            raise TypeError(f"a message must have a role and a content, got {_shown(turn)}")
    return [
        {"role": check_role(turn["role"]), "content": check_text(turn["content"], "message content")} for turn in prompt
    ]


def check_role(role: object) -> str:
    """Who speaks in a turn of a conversation: one word, which a chat template writes among its control tokens."""
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise ValueError(f"a message's role must be one word, such as user, assistant or system, got {role!r}")
    return str.__str__(role)


def check_instruction(instruction: object, prompt: Prompt) -> tuple[Prompt, int]:
    """How to paraphrase: the prompt and which of its wordings.

    Args:
        instruction: index of one of the prompt's wordings, or a wording of its own with ``{memory}`` in it.
        prompt: the checkpoint's.

    Raises:
        ClaraError: a wording that does not hold ``{memory}`` exactly once.
    """
    if isinstance(instruction, str):
        return Prompt(system=prompt.system, user=(str.__str__(instruction),)), 0
    last = len(prompt.user) - 1
    if not isinstance(instruction, int) or isinstance(instruction, bool) or not 0 <= instruction <= last:
        kind = ValueError if isinstance(instruction, int) else TypeError
        raise kind(
            f"instruction must be a whole number from 0 to {last} (a wording of the checkpoint), or a wording of your "
            f"own with {{memory}} in it, got {_shown(instruction)}"
        )
    return prompt, instruction


def check_options(options: ClaraOptions) -> ClaraOptions:
    """How a `Clara` is to work."""
    for name, kind in (("long_documents", LongDocuments), ("cold", Cold), ("ranking", Ranking)):
        value, known = getattr(options, name), get_args(kind)
        if value not in known and not (name == "ranking" and value is None):
            raise ValueError(f"{name} must be {', '.join(known[:-1])} or {known[-1]}, got {_shown(value)}")
    for name in ("batch_tokens", "batch_size"):
        if getattr(options, name) is not None:
            check_count(getattr(options, name), name)
    if options.expand is not None:
        check_count(options.expand, "expand", least=0)
    return options


def check_count(value: object, what: str, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, got {_shown(value)}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}, got {value}")
    return value


def check_sampling(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling arguments that are given (not None), each known and of its kind."""
    unknown = sorted(set(sampling) - set(SAMPLING))
    if unknown:
        raise TypeError(f"unknown sampling argument {', '.join(unknown)}; known are {', '.join(SAMPLING)}")
    values = {name: value for name, value in sampling.items() if value is not None}
    for name, value in values.items():
        kind = _KINDS[name]
        if not kind.fits(value):
            raise TypeError(f"{name} must be {kind.name}, got {_shown(value)}")
        if not kind.holds(value):
            raise ValueError(f"{name} must be {kind.values}, got {_shown(value)}")
    return values


def check_stop(stop: object) -> tuple[str, ...]:
    """The strings that end a text: none, one or several."""
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, Sequence) or isinstance(stops, (bytes, bytearray)):
        raise TypeError(f"stop must be a string or a list of strings (an empty one for none), got {_shown(stop)}")
    if not all(isinstance(text, str) and text for text in stops):
        raise ValueError(f"stop must hold strings that are not empty, got {_shown(list(stops))}")
    for text in stops:
        if _LONE_SURROGATE.search(text):
            raise ValueError(f"stop holds half a character, which no text ends with: {_shown(text)}")
    return tuple(str.__str__(text) for text in stops)


@dataclass(frozen=True)
class Generation:
    """How to generate: the checked form of ``max_new_tokens``, ``stop`` and the sampling arguments."""

    max_new_tokens: int = MAX_NEW_TOKENS
    stop: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    copy: bool = False

    @classmethod
    def check(cls, max_new_tokens: int, stop: str | Sequence[str], sampling: Mapping[str, Any]) -> Self:
        """Check them; a temperature above 0 means sampling unless ``do_sample`` says otherwise, 0 means greedy."""
        values = check_sampling(sampling)
        count, stops = check_count(max_new_tokens, "max_new_tokens"), check_stop(stop)
        if values.get("min_new_tokens", 0) > count:
            raise ValueError(f"min_new_tokens must be at most max_new_tokens ({count}), got {values['min_new_tokens']}")
        seed = values.pop("seed", None)
        if values.get("temperature") == 0:
            values["do_sample"] = False
        elif set(_DRAWING) & set(values):
            values.setdefault("do_sample", True)
        if not values.get("do_sample", False):
            values = {name: value for name, value in values.items() if name not in _DRAWING}
        if "sampling_top_k" in values:
            values["top_k"] = values.pop("sampling_top_k")
        return cls(count, stops, values, seed)

    @classmethod
    def of(cls, keywords: GenerationKeywords) -> Self:
        """From keyword arguments, checked."""
        sampling: dict[str, Any] = dict(keywords)
        copy = sampling.pop("copy", False)
        if not isinstance(copy, bool):
            raise TypeError(f"copy must be True or False, got {_shown(copy)}")
        made = cls.check(sampling.pop("max_new_tokens", MAX_NEW_TOKENS), sampling.pop("stop", ()), sampling)
        if copy and (made.stop or any(value is not False for value in made.sampling.values())):
            others = [name for name, value in keywords.items() if name not in ("copy", "max_new_tokens") and value]
            raise ValueError(
                f"copy=True takes a stretch of what was read, for which only max_new_tokens counts; leave out "
                f"{', '.join(others)}"
            )
        return replace(made, copy=copy)

    @property
    def own_words(self) -> Self:
        """The same, for what is not an answer from documents.

        Raises:
            ValueError: it asks for a copy of them.
        """
        if self.copy:
            raise ValueError("copy=True copies an answer from documents, and there are none; leave it out")
        return self

    @property
    def one_by_one(self) -> bool:
        """Whether prompts must not share a batch: what is drawn from a seed must not hang on who else is drawing."""
        return self.seed is not None and bool(self.sampling.get("do_sample"))

    def arguments(self) -> dict[str, Any]:
        """For `ClaraModel.generate_ids`."""
        return {"max_new_tokens": self.max_new_tokens, "stop": self.stop, **self.sampling}

    @contextmanager
    def seeded(self, device: torch.device) -> Iterator[None]:
        """Draw from this seed inside the block, and leave the random state outside as it was."""
        if self.seed is None:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            yield

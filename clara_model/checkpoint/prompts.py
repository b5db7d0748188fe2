"""The chat prompts of each stage, with ``{memory}`` and ``{question}`` where documents and question go.

The wording here is this project's own. A published checkpoint was trained with its own wording: `PromptSet.from_file`
reads it from a JSON file, or from the string constants of the checkpoint's modeling file, which is parsed, never run.
"""

from __future__ import annotations

import ast
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from clara_model.checkpoint.certainty import Certainty
from clara_model.errors import ClaraError, shown

logger = logging.getLogger(__name__)

LARGEST_FILE = 8 * 1024 * 1024
"""Bytes of a file with prompts that is read at most."""
KINDS = ("answer", "question_answering", "paraphrase")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One system message (empty: none) and the wordings of the user's turn."""

    system: str = ""
    user: tuple[str, ...] = ("{memory}",)

    def __post_init__(self) -> None:
        """Every wording must have exactly one place for the documents."""
        if not self.user:
            raise ClaraError("a prompt needs at least one user wording, got none")
        for text in self.user:
            if text.count("{memory}") != 1:
                raise ClaraError(f"a prompt's user wording must hold {{memory}} exactly once, got {shown(text)}")

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read ``{"system": str, "user": [str, ..]}``; one wording may be given as a string."""
        user = values.get("user") if isinstance(values, dict) else None
        wordings = [user] if isinstance(user, str) else user
        system = values.get("system", "") if isinstance(values, dict) else ""
        if not isinstance(wordings, list) or not all(isinstance(text, str) for text in [system, *wordings]):
            raise ClaraError(f'a prompt must have the form {{"system": "..", "user": ["..", ..]}}, got {shown(values)}')
        return cls(system=system, user=tuple(wordings))


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """The prompts of a checkpoint: answer a question, write question-answer pairs, paraphrase."""

    no_answer: str = ""
    """What it was trained to write where nothing that it reads answers the question; empty where it was not."""
    certainty: Certainty = field(default_factory=Certainty)
    """What tells whether what was read answers, and when ``no_answer`` is written."""

    answer: Prompt = field(
        default_factory=lambda: Prompt(
            system="Answer the question from the background, in as few words as it takes.",
            user=("Background:\n{memory}\n\nQuestion: {question}",),
        )
    )
    question_answering: Prompt = field(
        default_factory=lambda: Prompt(
            system="Ask every question that the background answers, and answer each one.",
            user=("Background:\n{memory}",),
        )
    )
    paraphrase: Prompt = field(
        default_factory=lambda: Prompt(
            system="Rewrite the background as you are told, keeping every fact.",
            user=(
                "Background: {memory}\nSay this in other words.",
                "Background: {memory}\nWrite the same again, differently.",
                "Put this text into new words: {memory}",
                "{memory}\nWhat does the text above say?",
            ),
        )
    )

    def __post_init__(self) -> None:
        """An answer prompt needs a place for the question."""
        if any(text.count("{question}") != 1 for text in self.answer.user):
            raise ClaraError(f"the answer prompt must hold {{question}} exactly once, got {shown(self.answer.user)}")

    def __iter__(self) -> Iterator[Prompt]:
        return iter([getattr(self, kind) for kind in KINDS])

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read ``{"answer": {"system": str, "user": [str, ..]}, ..}``; what is absent keeps this project's wording."""
        if not isinstance(values, dict):
            raise ClaraError(f"prompts must be an object with some of {', '.join(KINDS)}, got {type(values).__name__}")
        values = dict(values)
        no_answer, certainty = values.pop("no_answer", ""), Certainty.from_dict(values.pop("certainty", {}))
        if not isinstance(no_answer, str):
            raise ClaraError(f"no_answer must be a text, got {shown(no_answer)}")
        unknown = sorted(set(values) - set(KINDS))
        if unknown:
            raise ClaraError(f"unknown prompts {', '.join(unknown)}; known are {', '.join(KINDS)} and no_answer")
        given = {kind: Prompt.from_dict(prompt) for kind, prompt in values.items()}
        return cls(no_answer=no_answer, certainty=certainty, **given)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` reads them back."""
        prompts = {kind: getattr(self, kind) for kind in KINDS}
        found = {kind: {"system": prompt.system, "user": list(prompt.user)} for kind, prompt in prompts.items()}
        return {**found, "no_answer": self.no_answer, "certainty": asdict(self.certainty)} if self.no_answer else found

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a prompts ``.json`` file, or the constants of a published modeling ``.py`` file.

        Raises:
            ClaraError: the file is missing, malformed, or holds no prompts.
        """
        path = Path(path)
        if not path.is_file():
            raise ClaraError(f"prompts file {path} does not exist")
        values = _parsed(path, from_source if path.suffix == ".py" else json.loads)
        if not isinstance(values, dict):
            raise ClaraError(f"{path} must hold a JSON object of prompts, got {type(values).__name__}")
        return cls.from_dict(values)


def from_source(source: str) -> dict[str, Any]:
    """Find the prompts in a published modeling file's syntax tree; nothing is executed.

    Raises:
        ClaraError: there is no answer prompt.
        SyntaxError: not Python.
    """
    found = _constants(source)
    if "answer" not in found:
        raise ClaraError("the modeling file holds no answer prompt; pass prompts= with a prompts file")
    return found


def from_folder(folder: Path) -> PromptSet:
    """The prompts that a published checkpoint was trained with: of its own modeling files, else of its parent folder's.

    Files without prompts are passed over.

    Raises:
        ClaraError: no file holds prompts, or one of the checkpoint's own cannot be read.
    """
    for place in (folder, folder.parent):
        for path in sorted(place.glob("model*.py")):
            if not path.is_file() or "answer" not in _parsed(path, _constants):
                continue
            if place is not folder:
                logger.warning("the prompts were read from %s: %s holds none of its own", path, folder)
            return PromptSet.from_file(path)
    raise ClaraError(f"{folder} has no modeling file to read its prompts from; pass prompts= with a prompts file")


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    """What a function makes of a file's text, or one sentence on why it cannot."""
    if path.stat().st_size > LARGEST_FILE:
        raise ClaraError(f"{path} has {path.stat().st_size} bytes, which no file with prompts has")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # deep nesting ends in the latter two
        raise ClaraError(f"{path} holds no readable prompts ({error or 'nested too deeply'})") from error


def _constants(source: str) -> dict[str, Any]:
    """The file keeps its prompts as string constants, told apart by what they ask for.

    There is a module-level list of paraphrase instructions, and in each prompt-building function ``prompt_system``
    followed by ``prompt_user``.
    """
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the published file holds an invalid escape, which is not the reader's concern
        tree = ast.parse(source)
    instructions = [texts for texts in _string_lists(tree) if all(_place(text, "memory") for text in texts)]
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        constants = dict(_string_assignments(function))
        system, user = constants.get("prompt_system"), constants.get("prompt_user", "")
        if system is None:
            continue
        if _place(user, "memory") and _place(user, "question"):
            found.setdefault("answer", {"system": system, "user": [user]})
        elif "paraphrase" in system and instructions:
            found.setdefault("paraphrase", {"system": system, "user": instructions[0]})
        elif _place(user, "memory"):
            found.setdefault("question_answering", {"system": system, "user": [user]})
    return found


def _place(text: str, name: str) -> bool:
    return text.count("{" + name + "}") == 1


def _normal(text: str) -> str:
    """The published names of the two places, in this project's words."""
    text = re.sub(r"\{(docs|mem_tokens_str|mem_tokens)\}", "{memory}", text)
    return re.sub(r"\{(query|question)\}", "{question}", text)


def _string_lists(tree: ast.Module) -> Iterator[list[str]]:
    """Every module-level list of at least two string constants, places named in this project's words."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and len(node.value.elts) > 1:
            texts = [e.value for e in node.value.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)]
            if len(texts) == len(node.value.elts):
                yield [_normal(text) for text in texts]


def _string_assignments(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """``name = "constant"`` and ``name = f"..{place}.."`` inside a function."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                yield node.targets[0].id, node.value.value
            elif isinstance(node.value, ast.JoinedStr):
                yield node.targets[0].id, _normal("".join(_pieces(node.value)))


def _pieces(joined: ast.JoinedStr) -> Iterator[str]:
    for part in joined.values:
        if isinstance(part, ast.Constant):
            yield str(part.value)
        elif isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
            yield "{" + part.value.id + "}"

"""A base model's chat template, rendered as transformers renders it, but with bounds on what a template may cost.

A template is a program that comes with a checkpoint. transformers' sandbox keeps it inside; what that lacks is an end:
loops inside loops, macros that call themselves twice, texts that double. `checkpoint.sandbox` counts all of these, and
a template that goes beyond a bound is refused. A probe rendered at load finds what is wrong before the first answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from transformers import PreTrainedTokenizerBase

from clara_model.checkpoint.sandbox import Sandbox, budgeted
from clara_model.errors import ClaraError

LARGEST_TEMPLATE = 256 * 1024
"""Characters of a template; the largest published ones have about 20,000."""
NO_SYSTEM = "System role not supported"
"""How a template says that it has no place for a system message."""


class ChatTemplate:
    """A compiled template. Threads may share one: each rendering counts for itself."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Compile the tokenizer's template.

        Raises:
            ClaraError: there is none, or it cannot be compiled.
        """
        self._where = _where(tokenizer)
        self._special_tokens: dict[str, Any] = dict(tokenizer.special_tokens_map)
        self._source = ""
        try:
            source = tokenizer.get_chat_template()
            if not isinstance(source, str) or len(source) > LARGEST_TEMPLATE:
                raise TemplateError(f"it must be a text of at most {LARGEST_TEMPLATE} characters")
            self._source = source
            self._template = Sandbox().from_string(source)
        except (Exception, MemoryError) as error:  # nesting too deep ends in either
            raise ClaraError(f"the chat template in {self._where} cannot be used ({_reason(error)})") from error

    def __getstate__(self) -> dict[str, Any]:
        """Without what is compiled, which cannot be copied or sent to another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_template"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._template = Sandbox().from_string(self._source)

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """One conversation as text.

        Raises:
            jinja2.TemplateError: the template refuses the conversation, fails, or goes beyond a bound.
        """
        turns = [{str(name): str(value) for name, value in message.items()} for message in messages]
        try:
            with budgeted(len(turns), sum(len(value) for turn in turns for value in turn.values())):
                return self._template.render(
                    **self._special_tokens,
                    messages=turns,
                    tools=None,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    enable_thinking=False,
                )
        except TemplateError:
            raise
        except RecursionError as error:
            raise SecurityError("it calls itself without an end") from error
        except Exception as error:  # whatever a template's own code runs into
            raise TemplateError(_reason(error)) from error

    def check(self, system: bool) -> None:
        """Render a probe: a user's turn, ready for its answer; with a system message before it where prompts have one.

        Raises:
            ClaraError: the template fails, or drops or doubles the text of a turn.
        """
        first, user = (
            {"role": role, "content": f"A probe of the {role}'s text, 1 to 3."} for role in ("system", "user")
        )
        self._probe([user])
        if system:
            self._probe([first, user])

    def _probe(self, turns: Sequence[Mapping[str, str]]) -> None:
        try:
            text = self.render(turns, True)
        except TemplateError as error:
            if turns[0]["role"] == "system" and NO_SYSTEM in str(error):
                return
            raise ClaraError(f"the chat template in {self._where} cannot be used ({_reason(error)})") from error
        for turn in turns:
            found = text.count(turn["content"])
            if found != 1:
                raise ClaraError(
                    f"the chat template in {self._where} renders the {turn['role']}'s text {found} times "
                    "instead of once"
                )


def _where(tokenizer: PreTrainedTokenizerBase) -> str:
    """The file that the template is from, as far as the tokenizer knows."""
    folder = Path(str(tokenizer.name_or_path or ""))
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if (folder / name).is_file():
            return str(folder / name)
    return "the tokenizer"


def _reason(error: BaseException) -> str:
    """The first line of an error, with its kind where the message alone says little."""
    first = str(error).strip().partition("\n")[0].rstrip(".")
    return first if isinstance(error, TemplateError) and first else f"{type(error).__name__}: {first}".rstrip(": ")


class Places:
    """Texts that are held back from a rendering, each under a place that no text of that rendering can contain."""

    def __init__(self, texts: Iterable[str]) -> None:
        """``texts`` are all those that take part; the places are named by their hash, which none of them can hold."""
        self._name = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]
        self._held: dict[str, str] = {}

    def hold(self, text: str) -> str:
        """Hold a text back; what stands for it."""
        place = f"\ue000{self._name}:{len(self._held)}\ue001"
        self._held[place] = text
        return place

    def pieces(self, rendered: str) -> list[tuple[str, bool]]:
        """The rendering piece by piece, and of each piece whether it is a text that was held back."""
        if not self._held:
            return [(rendered, False)]
        pieces = re.split("(" + "|".join(map(re.escape, self._held)) + ")", rendered)
        return [(self._held.get(piece, piece), piece in self._held) for piece in pieces if piece]

    def all_once(self, rendered: str) -> bool:
        """Whether every text that was held back has exactly one place in the rendering."""
        return all(rendered.count(place) == 1 for place in self._held)

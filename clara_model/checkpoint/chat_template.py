"""A base model's chat template, rendered as transformers renders it, but with bounds on what a template may cost.

A template is a program that comes with a checkpoint. transformers' sandbox keeps it inside; what that lacks is an end:
loops inside loops, macros that call themselves twice, texts that double. Here every turn of a loop, every call and
every character of a template's work is counted, and a template that goes beyond a bound is refused. A probe rendered at
load finds what is wrong before the first answer. It has what transformers' environment has for chat templates (filters,
globals, the ``generation`` tag), but for ``lipsum``; a test compares the two.
Source of the options: ``transformers.utils.chat_template_utils``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from transformers import PreTrainedTokenizerBase

from clara_model.errors import ClaraError

LARGEST_TEMPLATE = 256 * 1024
"""Characters of a template; the largest published ones have about 20,000."""
NO_SYSTEM = "System role not supported"
"""How a template says that it has no place for a system message."""
STEPS, STEPS_PER_MESSAGE = 20_000, 1_000
"""Turns of loops and calls that one rendering may take; published templates take less than 100 for a message."""
CHARACTERS, CHARACTERS_PER_CHARACTER = 1_000_000, 64
"""Characters that one rendering may write, join or pass through filters: a sum, and so many times its input."""
LARGEST_RANGE = 10_000
LARGEST_REPEAT = 10_000
"""The largest number that an operation which repeats or widens a text may be given."""
_WIDENING = {"batch", "center", "format", "indent", "round", "slice", "tojson", "truncate", "wordwrap", "urlize"}
_WIDENING_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"}
_COUNTED, _LOOPED = "clara_counted", "clara_looped"


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


class _Budget:
    def __init__(self, messages: int = 0, characters: int = 0) -> None:
        self.steps = STEPS + STEPS_PER_MESSAGE * messages
        self.characters = CHARACTERS + CHARACTERS_PER_CHARACTER * characters

    def step(self) -> None:
        """One turn of a loop, call or filter."""
        self.steps -= 1
        if self.steps < 0:
            raise SecurityError("it takes more steps than a chat template needs")

    def size(self, size: int) -> None:
        """A text or list of that size is made, or gone through."""
        self.characters -= size
        if self.characters < 0:
            raise SecurityError("it writes more text than a chat template needs")


_budget: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def budgeted(messages: int, characters: int) -> Iterator[None]:
    """Bound what is rendered inside the block, by the conversation that it is rendered from."""
    token = _budget.set(_Budget(messages, characters))
    try:
        yield
    finally:
        _budget.reset(token)


def _left() -> _Budget:
    """The budget of this rendering; a fresh one while compiling."""
    return _budget.get(None) or _Budget()


def _sized(value: Any) -> Any:
    if isinstance(value, (str, list, tuple, dict, range)):
        _left().size(len(value))
    elif isinstance(value, int) and value.bit_length() > 4096:
        raise SecurityError("it makes numbers of thousands of digits")
    return value


def _looped(values: Iterable[Any]) -> Iterator[Any]:
    budget = _left()
    for value in values:
        budget.step()
        yield value


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment; what it renders outside of `budgeted` counts one operation at a time."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols])
        self.filters["tojson"] = _tojson
        self.filters = {name: _counted(name, function) for name, function in self.filters.items()}
        # `pass_context` keeps Jinja from running them while it compiles
        self.filters |= {_COUNTED: pass_context(lambda _, value: _sized(value))}
        self.filters |= {_LOOPED: pass_context(lambda _, values: _looped(values))}
        del self.globals["lipsum"]
        self.globals |= {
            "range": _range,
            "raise_exception": _raise,
            "strftime_now": lambda form: datetime.now().strftime(form),
            "dict": lambda *args, **kwargs: dict(*args, **kwargs),
            "namespace": _Namespace,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse, and let every loop and every output count itself."""
        template: nodes.Template = _CountIn().visit(super()._parse(source, name, filename))
        return template

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic whose result is bounded; nothing large is made first."""
        if operator == "**" and max(abs(left), abs(right)) > 64:
            raise SecurityError("it raises to powers beyond 64")
        if operator == "%" and isinstance(left, str):
            _check_widths(left, right if isinstance(right, tuple) else (right,))
        if operator == "*":
            for text, count in ((left, right), (right, left)):
                if isinstance(text, (str, list, tuple)) and isinstance(count, int):
                    _left().size(len(text) * max(count, 0))
        return _sized(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call from a template: a step, and for a text's methods what they would make."""
        _left().step()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and isinstance(obj, (types.BuiltinMethodType, types.FunctionType)):
            _check_text_method(owner, name, args)
        elif name in ("format", "format_map"):  # str.format, as the sandbox wraps it
            _check_widths("", (*args, *kwargs.values()))
        if isinstance(obj, LoopContext) and args:
            args = (_looped(args[0]), *args[1:])
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format``, whose widths are looked at first."""
        if isinstance(value, types.BuiltinMethodType) and isinstance(value.__self__, str):
            if value.__name__ in ("format", "format_map"):
                _check_widths(value.__self__, ())
        return super().wrap_str_format(value)


class _CountIn(NodeTransformer):
    """``for x in values`` becomes ``for x in counted(values)``; texts that are joined or written pass a counter."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _LOOPED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(node, _COUNTED)

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [
            _filtered(nodes.Const(c.data, lineno=c.lineno) if isinstance(c, nodes.TemplateData) else c, _COUNTED)
            for c in node.nodes
        ]
        return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is a step, counts what it is given, and is given no large number where it widens."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _left().step()
        for value in args:
            _sized(value)
        if name in _WIDENING:
            texts = [value for value in args if isinstance(value, str)] if name == "format" else [""]
            _check_widths(texts[0] if texts else "", (*args, *kwargs.values()))
        sizes = [len(value) for value in args if isinstance(value, (str, list, tuple))]
        if name in ("replace", "join") and len(sizes) > 1:
            _left().size(sizes[0] * sizes[-1])
        return _sized(function(*args, **kwargs))

    return run


def _check_text_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    """Count what a string's method would make, before it does."""
    if name in _WIDENING_METHODS:
        _check_widths(text if name in ("format", "format_map") else "", args)
    if name == "expandtabs":
        _left().size(text.count("\t") * (args[0] if args and isinstance(args[0], int) else 8))
    if name == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
        _left().size(text.count(args[0]) * len(args[1]))
    if name == "join" and args and isinstance(args[0], (list, tuple, str)):
        _left().size(len(text) * len(args[0]) + sum(len(part) for part in args[0] if isinstance(part, str)))


def _check_widths(form: str, values: Iterable[Any]) -> None:
    """No number beyond `LARGEST_REPEAT` in a format or among its values."""
    digits = "".join(char if char.isdigit() else " " for char in form).split()
    if any(len(number) > 4 for number in digits) or any(
        isinstance(value, int) and value > LARGEST_REPEAT for value in values
    ):
        raise SecurityError(f"it widens texts beyond {LARGEST_REPEAT} characters")


class _Namespace(Namespace):
    """Refuses names with an underscore in front, which lead out of a sandbox."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it stores the attribute {name!r}")


class _Generation(Extension):
    """The tag ``{% generation %}``, which marks the assistant's text for training; its content is written as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as a call that writes its content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Macro) -> str:
        return str(caller())


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _range(*args: int) -> range:
    found = range(*args)
    if len(found) > LARGEST_RANGE:
        raise SecurityError(f"it counts beyond {LARGEST_RANGE}")
    return found


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)

"""A quick start: the model's packages without what no command uses, for a process that answers one question and ends.

transformers brings along what it finds: torch.distributed's tensors, scipy (for object detection), and torch's compiler
to mark some functions for it. On one device a language model that is not compiled uses none of them, and they are a
third of a start. So here transformers' own checks find the first two absent, and it keeps these answers for the
process; the compiler is imported when something asks more of it than a mark, and not for tensors without memory. All
this in a process that is ``clara``'s own (`alone`): a library must not decide such things for a program that it is a
part of.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
logger = logging.getLogger(__name__)
_alone = False


def alone() -> None:
    """Say that this process runs one command and nothing else."""
    global _alone
    _alone = True


def import_model() -> None:
    """Import `Clara` and what it stands on, where that has not been done.

    Without garbage collection: imports make a million objects that stay, and looking for garbage among them takes a
    seventh of a start.
    """
    if "clara_model.inference.clara" in sys.modules:
        return
    gc.disable()
    try:
        if _alone and "transformers.modeling_utils" not in sys.modules:
            _import_transformers()
        importlib.import_module("clara_model.inference.clara")
    finally:
        gc.freeze()
        gc.enable()


def _import_transformers() -> None:
    """With what is not used left out; as it is, where a version does not bear that."""
    import torch
    from transformers.utils import import_utils

    try:
        with _in_place_of("scipy", None):
            _asked_anew(import_utils.is_scipy_available)
        with (
            _replaced(torch.distributed, "is_available", lambda: False),
            _replaced(torch.compiler, "disable", _marked),
            _in_place_of(COMPILER, _marks()),
        ):
            _asked_anew(import_utils.is_torch_distributed_available)
            for name in ("transformers.modeling_utils", "transformers.masking_utils", "peft"):
                importlib.import_module(name)
        _build_without_memory()
    except Exception:
        logger.debug("transformers wants all that there is", exc_info=True)


def _asked_anew(check: Any) -> None:
    """One of transformers' checks, which keep their first answer."""
    check.cache_clear()
    check()


def _build_without_memory() -> None:
    """On the meta device, where models are built before their weights are read, nothing is drawn and no series is made.

    Both would import the compiler, and neither has a place to be written to: weights are read, and what is computed
    from a series (the angles of positions) is computed again with memory.
    """
    import torch
    from torch import Tensor, nn

    draw, series = nn.init.normal_, torch.arange

    def normal(tensor: Tensor, *args: Any, **keywords: Any) -> Tensor:
        return tensor if tensor.is_meta else draw(tensor, *args, **keywords)

    def arange(*args: Any, **keywords: Any) -> Tensor:
        if keywords.get("device") is None and torch.get_default_device().type == "meta":
            keywords["device"] = "cpu"
        return series(*args, **keywords)

    nn.init.normal_ = normal
    torch.arange = arange  # type: ignore[assignment]


class _Marks(ModuleType):
    """The compiler, not imported: it knows only how to mark a function, and imports itself for anything else."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return getattr(importlib.import_module(COMPILER), name)


def _marks() -> ModuleType:
    spec = importlib.util.find_spec(COMPILER)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Marks
    for name in ("allow_in_graph", "assume_constant_result", "disable"):
        setattr(module, name, _marked)
    return module


def _marked(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
    """The function as it is: a mark says something to the compiler alone. Also as a decorator with arguments."""
    return (lambda found: found) if function is None else function


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """An attribute of a module is another one inside the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _in_place_of(name: str, module: ModuleType | None) -> Iterator[None]:
    """A module that has not been imported yet is another one inside the block, or (None) not there."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module  # type: ignore[assignment]
    try:
        yield
    finally:
        if sys.modules.get(name) is module:
            del sys.modules[name]

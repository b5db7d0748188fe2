"""What the Haystack components have in common: the arguments that name a model, its lifecycle, documents to texts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from haystack import Document, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret

from clara_model.components.checks import check_top
from clara_model.components.model_holder import ModelHolder

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

Result = TypeVar("Result")
TOKEN = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False)
_PLAIN = (str, int, float, bool, type(None))
ENGINE_KEY = Secret.from_env_var("CLARA_ENGINE_API_KEY", strict=False)
_LOADING = ("subfolder", "revision", "dtype", "batch_size", "store", "engine_url", "engine_timeout")
"""Arguments that are options of `Clara.load` as they are."""


class ClaraComponent:
    """A component that holds a model: loads it on `warm_up`, lets go of it on `close`, saves its arguments.

    A subclass calls `_keep` first in its constructor, and then sets what it needs in another form. What says which
    model is loaded cannot be assigned afterwards; a subclass checks the rest when it runs.
    """

    _fixed: ClassVar[tuple[str, ...]] = ("model", *_LOADING, "device", "token", "engine_api_key", "model_kwargs")

    model: str | Clara
    device: ComponentDevice | None
    token: Secret | None
    store: str | None
    model_kwargs: dict[str, Any]
    embedding_separator: str

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and "_holder" in vars(self):
            said = f"{name} says which model is loaded and cannot be changed"
            raise AttributeError(f"{type(self).__name__}: {said}; make another one")
        super().__setattr__(name, value)

    def _keep(self, given: Mapping[str, Any]) -> None:
        """Keep the constructor's ``locals()`` under their own names, and check those that say how to load."""
        owner = type(self).__name__
        arguments = {name: given[name] for name in self._names()}
        _check_device(arguments["device"], owner)
        dtype, batch_size = arguments["dtype"], arguments.get("batch_size")
        if dtype is not None and not isinstance(dtype, str):
            raise TypeError(f"{owner}: dtype must be a string such as 'bfloat16', but got {dtype!r}")
        if batch_size is not None:
            check_top(batch_size, "batch_size", owner)
        arguments["model_kwargs"] = plain = _plain(arguments["model_kwargs"], owner)
        if twice := ", ".join(sorted(set(arguments) & set(plain))):
            raise ValueError(f"{owner}: model_kwargs must not hold {twice}, which the component takes by name")
        for name in ("model", "store"):
            if isinstance(arguments[name], os.PathLike):
                arguments[name] = os.fspath(arguments[name])
        if not isinstance(store := arguments["store"], str | None):
            kind = f"the path of a folder, but got {type(store).__name__}"
            raise TypeError(f"{owner}: store must be {kind}; give an opened store to a Clara")
        for name, value in arguments.items():
            setattr(self, name, value)
        options = {name: arguments[name] for name in _LOADING if name in arguments and name in self._fixed}
        self._holder = ModelHolder(arguments["model"], {**options, **plain}, owner)

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def warm_up(self) -> None:
        """Load the model, or share the copy that another component has loaded. Calling it again costs nothing."""
        _ = self.clara

    async def warm_up_async(self) -> None:
        """`warm_up` without blocking the event loop."""
        if not self._holder.loaded:
            await self._run_in_thread(self.warm_up)

    def close(self) -> None:
        """Let go of the model; the last component that does so frees its memory, and the next use loads it again."""
        self._holder.close()

    async def close_async(self) -> None:
        """`close` without blocking the event loop."""
        await self._holder.aclose()

    async def _run_in_thread(self, call: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Run a call in one of the model's own threads, without blocking the event loop."""
        return await self._holder.run_in_thread(call, *args, load=lambda: self.clara, **options)

    @property
    def clara(self) -> Clara:
        """The model, loaded now if it is not yet."""
        if self._holder.loaded or not isinstance(self.model, str):
            return self._holder.get()
        secrets = {"token": self.token, "engine_api_key": getattr(self, "engine_api_key", None)}
        known = {name: secret.resolve_value() for name, secret in secrets.items() if secret is not None}
        return self._holder.get(device=ComponentDevice.resolve_device(self.device).to_torch_str(), **known)

    def to_dict(self) -> dict[str, Any]:
        """The component as plain values.

        Raises:
            ValueError: it was given a model or a token that cannot be saved.
        """
        arguments = {name: copy(getattr(self, name)) for name in self._names() if name != "model"}
        return default_to_dict(self, model=self._holder.saved_name, **{**arguments, **self._saved()})

    def _saved(self) -> dict[str, Any]:
        """Arguments that Haystack does not know how to save, as plain values."""
        return {}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The component that `to_dict` saved."""
        return default_from_dict(cls, {**data, "init_parameters": cls._restored(data.get("init_parameters", {}))})

    @classmethod
    def _restored(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Saved arguments; a subclass restores those that Haystack does not know how to."""
        return dict(arguments)


def _check_device(device: object, owner: str) -> None:
    if device is not None and not isinstance(device, ComponentDevice):
        raise ValueError(f"{owner}: device must be a ComponentDevice, e.g. ComponentDevice.from_str({str(device)!r})")
    if device is not None and device.has_multiple_devices:
        raise ValueError(f"{owner}: device must be a single device, but got a device map")


def _plain(options: Mapping[str, Any] | None, owner: str) -> dict[str, Any]:
    plain = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in (options or {}).items()}
    for name, value in plain.items():
        if not isinstance(value, _PLAIN):
            raise TypeError(f"{owner}: {name} of model_kwargs must be a plain value, but got {type(value).__name__}")
    return plain


def check_documents(documents: object, owner: str) -> list[Document]:
    """A list of documents.

    Raises:
        TypeError: something else.
    """
    if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
        raise TypeError(f"{owner} expects a list of Documents, but got {_kind(documents)}")
    return documents


def text_of(document: Document, meta_fields: list[str], separator: str) -> str:
    """What of a document is read: the named metadata that it has, then its content."""
    meta = [str(document.meta[name]) for name in meta_fields if document.meta.get(name) is not None]
    return separator.join([*meta, document.content or ""])


def _kind(value: object) -> str:
    if isinstance(value, list):
        return f"a list with {next(type(item).__name__ for item in value if not isinstance(item, Document))}"
    return type(value).__name__

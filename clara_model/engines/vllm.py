"""The generator in a vLLM server of its own, asked over HTTP with prompt embeddings.

Prompts are ids of our own tokenizer with latents in their slots, never text: a user's words cannot become control
tokens. What comes back are ids too, read as those of the model's own loop. All requests run on one event loop in one
thread, so that many callers ask at once. Leaves out starting the server (``docs/serving.md``) and exporting its weights
(`checkpoint.export`).

Source: vLLM's ``/v1/completions`` with ``prompt_embeds``, ``return_token_ids`` and ``logprobs`` (`TRIED`).
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import os
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clara_model.checkpoint.export import generator_name
from clara_model.engines.protocol import Reader
from clara_model.errors import ClaraError, EngineError, shown
from clara_model.modeling.generation import Generated, read_generated
from clara_model.modeling.model import RoleModel
from clara_model.validation import Generation

TRIED = "0.32.0"
"""The version of vLLM that the tests have run with."""
AT_ONCE = 256
"""Requests of one engine that are under way at a time; others wait for these."""
TIMEOUT = 300.0
"""Seconds that an answer may take, or of a stream its next piece."""
_CONNECT = 5.0
_IDLE = 3.0
"""Seconds that a connection is kept for the next request; the server closes it after five."""
_PATIENCE = 0.05
"""Seconds between two looks whether anybody still reads."""
_NOT_HERE = ("typical_p", "repetition_penalty", "no_repeat_ngram_size", "num_beams", "length_penalty", "early_stopping")
"""Sampling arguments that are refused: vLLM has no such thing, or a penalty ends it beside prompt embeddings."""
_NO_EFFECT = {"repetition_penalty": 1, "no_repeat_ngram_size": 0, "num_beams": 1, "typical_p": 1}
_TOP_K = 50
"""What transformers draws from where nothing is said."""
_New = tuple[list[int], list[float], dict[str, float]]
"""New ids, the logarithms of their likelihoods, and of the likeliest `_LIKELIEST` that could have come first."""
_LIKELIEST = 20
"""As many as a vLLM server gives where it is not told otherwise."""
_Pieces = queue.SimpleQueue[list[int] | None]


def start_command(name: str, folder: str = "FOLDER", host: str = "127.0.0.1", port: int = 8000) -> str:
    """The command that serves an exported generator."""
    return (
        f"python -m vllm.entrypoints.openai.api_server --model {folder} --served-model-name {name} "
        f"--enable-prompt-embeds --host {host} --port {port}"
    )


class VllmEngine:
    """A generator that is served at an address; an `engines.protocol.Engine`."""

    def __init__(self, url: str, model: RoleModel, api_key: str | None = None, timeout: float | None = None) -> None:
        """Look whether the server is there and serves this generator.

        Args:
            url: ``http://HOST:PORT``, with or without ``/v1``.
            model: whose generator it must be.
            api_key: what the server was started with (``--api-key``); by default ``$CLARA_ENGINE_API_KEY``.
            timeout: seconds that an answer may take, or of a stream its next piece; `TIMEOUT` by default.

        Raises:
            EngineError: nobody answers there, or the server serves another generator.
            ValueError: no address, or no number of seconds.
        """
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"engine_url must be an address such as http://127.0.0.1:8000, got {shown(url)}")
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0):
            raise ValueError(f"engine_timeout must be a number of seconds above 0, got {shown(timeout)}")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.name = generator_name(model.base)
        self._timeout = timeout or TIMEOUT
        key = api_key or os.environ.get("CLARA_ENGINE_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._start_anew()
        self._ask(self._check_name())

    def write(
        self,
        model: RoleModel,
        prompts: Sequence[Sequence[int]],
        blocks: Sequence[Tensor],
        how: Generation,
        reader: Reader | None = None,
        priors: Sequence[float] | None = None,
    ) -> Generated:
        """As `engines.protocol.Engine.write`; all prompts are asked for at once."""
        if self._process != os.getpid():
            self._start_anew()
        no_answer, certainty = model.tokens.no_answer_id, model.config.prompts.certainty
        priors = [certainty.prior(None, None)] * len(prompts) if priors is None else priors
        asked = self._sampling(how)
        if no_answer is not None:
            asked |= {"logprobs": _LIKELIEST, "return_tokens_as_token_ids": True}
        model.check_positions(prompts)
        items = list(zip(prompts, blocks, priors, strict=True))
        rows: list[_New] = []
        for start in range(0, len(items), AT_ONCE):  # a prompt's embeddings are megabytes
            bodies = [
                asked | _prompt(model, ids, block)
                | ({} if no_answer is None else {"logit_bias": {str(no_answer): certainty.shift(prior)}})
                for ids, block, prior in items[start : start + AT_ONCE]
            ]  # fmt: skip
            if reader is None:
                rows += self._ask(self._answers(bodies))
            else:
                assert len(items) == 1, "a stream is of one prompt"
                pieces: _Pieces = queue.SimpleQueue()
                rows.append(self._ask(self._stream(bodies[0], pieces), reader, pieces))
        tokenizer, ends = model.tokens.tokenizer, model.base.generation_config.eos_token_id
        ids = pad_sequence([torch.tensor(row) for row, *_ in rows], True, tokenizer.pad_token_id)
        logs = pad_sequence([torch.tensor(row) for _, row, _ in rows], True)
        odds = [] if no_answer is None else [_answer_odds(first, no_answer) for *_, first in rows]
        certain = list(map(certainty.of, priors, odds)) if odds else None
        return read_generated(tokenizer, ids, [len(row) for row in prompts], ends, how.stop, logs, certain)

    @property
    def threads(self) -> ThreadPoolExecutor:
        """As `engines.protocol.Engine.threads`."""
        if self._process != os.getpid():
            self._start_anew()
        return self._threads

    def close(self) -> None:
        """Let go of the connections."""
        if self._process == os.getpid():
            asyncio.run_coroutine_threadsafe(self._client.aclose(), _loop()).result()
            self._threads.shutdown(wait=False)

    # -- what is asked -----------------------------------------------------------------------------------------

    def _sampling(self, how: Generation) -> dict[str, Any]:
        """The request without its prompt.

        Raises:
            ClaraError: something that the engine does not have.
        """
        sampling = dict(how.sampling)
        for name in _NOT_HERE:
            value = sampling.pop(name, None)
            if value is not None and value != _NO_EFFECT.get(name):
                raise ClaraError(f"{name} is not possible with an engine (engine_url); leave it out, got {value}")
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": how.max_new_tokens,
            "return_token_ids": True,
            "logprobs": 0,
        }
        if sampling.pop("do_sample", False):
            kept = {"temperature": 1.0, "top_k": _TOP_K, **sampling}
            body |= {name: kept[name] for name in ("temperature", "top_p", "top_k", "min_p") if name in kept}
            body |= {} if how.seed is None else {"seed": how.seed}
        else:
            body["temperature"] = 0
        if how.stop:
            body["stop"] = list(how.stop)
        if least := sampling.get("min_new_tokens"):
            body["min_tokens"] = least
        return body

    def _ask(self, work: Coroutine[Any, Any, Any], reader: Reader | None = None, pieces: _Pieces | None = None) -> Any:
        """What a coroutine on the event loop gives; it ends early where its reader has left.

        ``pieces`` is where it puts new ids on the way.
        """
        pieces = queue.SimpleQueue() if pieces is None else pieces
        future = asyncio.run_coroutine_threadsafe(work, _loop())
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while True:
                try:
                    ids = pieces.get(timeout=None if reader is None else _PATIENCE)
                except queue.Empty:
                    assert reader is not None
                    reader.check()
                    continue
                if ids is None:
                    return future.result()
                if reader is not None:
                    reader.put(torch.tensor(ids))
        finally:
            future.cancel()

    # -- on the event loop -------------------------------------------------------------------------------------

    async def _check_name(self) -> None:
        answer = await self._request("GET", "/v1/models", timeout=_CONNECT)
        names = [one.get("id") for one in answer.get("data") or []]
        if self.name not in names:
            raise EngineError(
                f"the engine at {self.url} serves {', '.join(map(str, names)) or 'nothing'}, and this checkpoint's "
                f"generator is {self.name}; write it with clara export MODEL FOLDER and start the engine with: "
                f"{self._command}"
            )

    async def _answers(self, bodies: Sequence[dict[str, Any]]) -> list[_New]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(body)) for body in bodies]
        except BaseExceptionGroup as errors:  # the first one has ended the others
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _answer(self, body: dict[str, Any]) -> _New:
        choice = _choice(await self._request("POST", "/v1/completions", body))
        ids, logs = self._new(choice)
        self._check_end(choice.get("finish_reason"), ids)
        return ids, logs, _first(choice)

    async def _stream(self, body: dict[str, Any], pieces: _Pieces) -> _New:
        found: list[int] = []
        likely: list[float] = []
        first: dict[str, float] = {}
        reason = None
        async with self._sent("POST", "/v1/completions", body | {"stream": True}) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                values = self._read(line[6:])
                if "error" in values:
                    raise EngineError(f"the engine at {self.url} failed: {_message(values)}")
                choice = _choice(values)
                ids, logs = self._new(choice)
                reason = choice.get("finish_reason") or reason
                if ids:
                    first = first or _first(choice)
                    found += ids
                    likely += logs
                    pieces.put(ids)
        self._check_end(reason, found)
        return found, likely, first

    def _new(self, choice: dict[str, Any]) -> tuple[list[int], list[float]]:
        """New ids and their likelihoods' logarithms; none in a piece that only ends a stream."""
        ids, logs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if choice.get("text") and not (ids and logs and len(ids) == len(logs)):
            raise EngineError(f"the engine at {self.url} gives no token ids or likelihoods; use vLLM {TRIED} or later")
        return ids or [], logs or []

    def _check_end(self, reason: str | None, ids: list[int]) -> None:
        if reason not in ("stop", "length"):
            how = f"ended an answer with {reason!r}" if reason else "broke off in the middle of an answer"
            raise EngineError(f"the engine at {self.url} {how}; look into its log")
        if not ids:
            raise EngineError(f"the engine at {self.url} has written nothing; look into its log")

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        async with self._sent(method, path, body, timeout) as response:
            return self._read((await response.aread()).decode(errors="replace"))

    @asynccontextmanager
    async def _sent(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """A response that says 200; everything else is one sentence.

        Raises:
            EngineError: saying what.
        """
        seconds = timeout or self._timeout
        try:
            async with self._client.stream(
                method, f"{self.url}{path}", json=body, headers=self._headers,
                timeout=httpx.Timeout(seconds, connect=_CONNECT, pool=None),
            ) as response:  # fmt: skip
                if response.status_code != 200:
                    await self._refused(response, path)
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise EngineError(
                f"no engine answers at {self.url} ({error or type(error).__name__}); start it with: {self._command}"
            ) from error
        except httpx.TimeoutException as error:
            raise EngineError(
                f"the engine at {self.url} gave no answer within {seconds:g} s; raise engine_timeout if it is only slow"
            ) from error
        except httpx.HTTPError as error:
            raise EngineError(
                f"the connection to the engine at {self.url} broke off ({error or type(error).__name__})"
            ) from error

    async def _refused(self, response: httpx.Response, path: str) -> None:
        text = (await response.aread()).decode(errors="replace")
        try:
            why = _message(json.loads(text))
        except ValueError:
            why = text[:300]
        if response.status_code == 404 and path != "/v1/models":
            await self._check_name()
        if response.status_code == 401:
            raise EngineError(f"the engine at {self.url} wants another key; give its --api-key as engine_api_key")
        what = "refused the prompt" if response.status_code == 400 else f"failed with {response.status_code}"
        raise EngineError(f"the engine at {self.url} {what}: {' '.join(why.split())}")

    def _read(self, text: str) -> dict[str, Any]:
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise EngineError(f"what answers at {self.url} is no vLLM server: {shown(text)}")
        return values

    def _start_anew(self) -> None:
        """Connections and threads of this process: a forked child has none of its parent's."""
        limits = httpx.Limits(max_connections=AT_ONCE, keepalive_expiry=_IDLE)
        self._client, self._process = httpx.AsyncClient(limits=limits), os.getpid()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="clara-async")

    @property
    def _command(self) -> str:
        parts = urlsplit(self.url)
        return start_command(self.name, host=str(parts.hostname), port=parts.port or 80)


def _prompt(model: RoleModel, ids: Sequence[int], latents: Tensor) -> dict[str, Any]:
    """Embeddings ``[T, D]`` in a request; ids where nothing stands in slots."""
    if not len(latents):
        return {"prompt": list(ids)}
    with torch.no_grad():
        embeds = model.fill_slots(torch.tensor([ids]), latents)[0].cpu()
    if not bool(embeds.isfinite().all()):
        raise ClaraError("the latents of a prompt hold NaN or infinity; compress the documents again, in float32")
    buffer = io.BytesIO()
    torch.save(embeds.contiguous(), buffer)
    return {"prompt_embeds": base64.b64encode(buffer.getvalue()).decode()}


def _choice(values: dict[str, Any]) -> dict[str, Any]:
    """The only one; empty where a piece has none."""
    choices = values.get("choices") or [{}]
    return dict(choices[0])


def _first(choice: dict[str, Any]) -> dict[str, float]:
    """The likeliest first tokens of a piece, ``token_id:ID``; none where they were not asked for."""
    return ((choice.get("logprobs") or {}).get("top_logprobs") or [{}])[0] or {}


def _answer_odds(first: dict[str, float], no_answer: int) -> float:
    """See `Certainty`; likelihoods are those before any bias."""
    others = dict(first)
    none = others.pop(f"token_id:{no_answer}", -math.inf)
    return max(others.values()) - none


def _message(values: Any) -> str:
    error = values.get("error", values) if isinstance(values, dict) else values
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


# -- one event loop for all engines of a process -------------------------------------------------------------------

_starting = threading.Lock()
_running: dict[int, asyncio.AbstractEventLoop] = {}
"""By process: a forked child has none of its parent's threads."""


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        if os.getpid() not in _running:
            loop = _running[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="clara-engine", daemon=True).start()
        return _running[os.getpid()]

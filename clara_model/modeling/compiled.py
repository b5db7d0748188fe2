"""Compiled passes on a GPU: a token, or a question, then starts one recorded graph, not the kernels of every layer.

transformers compiles a decoding step where the attention cache has a fixed size. So that few graphs are recorded, a
cache has a multiple of `LENGTH` positions, a batch is filled up to one of `ROWS`, and the caches are kept. A single
question is padded to a multiple of `STEP` positions. The first pass of a shape waits for its graph, once in each thread
that runs the model. Leaves out reading the prompt and compressing: the latents that are kept come from the base's own
layers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.cache_utils import StaticCache
from transformers.generation import CompileConfig

logger = logging.getLogger(__name__)

LENGTH = 256
ROWS = (1, 2, 4, 8, 16, 32, 64)
SHAPES = 6
"""Caches that are kept; of a 7B base, one of 64 rows takes 2 GiB for every 256 positions."""
STEP, LONGEST = 64, 256
"""Positions of a question that is compiled; a longer one runs as it is."""


class Compiled:
    """The graphs of one base, and their caches."""

    def __init__(self, config: CompileConfig | None = None) -> None:
        """``config`` instead of the base's own way of compiling."""
        self._config = config
        self._caches: dict[tuple[int, int], StaticCache] = {}
        self._decoder: Callable[..., Any] | None = None
        self._works = True

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a model records for itself."""
        return {"_config": self._config, "_caches": {}, "_decoder": None, "_works": True}

    def rows(self, count: int, sampling: Mapping[str, Any]) -> int | None:
        """How many rows a batch of ``count`` prompts is filled up to; None where it is not compiled."""
        one = not {"num_beams", "num_return_sequences", "prompt_lookup_num_tokens"} & set(sampling)
        rows = next((rows for rows in ROWS if rows >= count), None)
        drawn_by_others = sampling.get("do_sample") and rows != count  # rows draw from one generator
        return rows if self._works and one and not drawn_by_others else None

    def arguments(self, base: PreTrainedModel, rows: int, positions: int) -> dict[str, Any]:
        """What ``base.generate`` is to be given for so many rows and positions, new tokens included."""
        shape = rows, -(-positions // LENGTH) * LENGTH
        kept = self._caches.pop(shape, None) or self._recorded(base, *shape)
        if kept is None:
            return {}
        self._caches[shape] = kept  # the last one used is last
        for old in list(self._caches)[:-SHAPES]:
            del self._caches[old]
        kept.reset()
        return {"past_key_values": kept, "compile_config": self._config}

    def states(self, decoder: nn.Module, embeds_NTD: Tensor, mask_NT: Tensor) -> Tensor | None:
        """A decoder's last hidden states ``[1, T, D]`` of one text, no gradients; None where that is not compiled."""
        count, length = embeds_NTD.shape[:2]
        if not self._works or count != 1 or length > LONGEST or torch.is_grad_enabled():
            return None
        if self._decoder is None:
            how = {**(self._config or CompileConfig()).to_dict(), "dynamic": False}
            self._decoder = torch.compile(decoder.forward, **how)
        more = -length % STEP
        padded = functional.pad(embeds_NTD, (0, 0, more, 0)), functional.pad(mask_NT, (more, 0))
        torch.compiler.cudagraph_mark_step_begin()
        try:
            out = self._decoder(inputs_embeds=padded[0], attention_mask=padded[1], use_cache=False)
        except RuntimeError as error:
            self._give_up(error)
            return None
        return cast(Tensor, out.last_hidden_state[:, more:].clone())  # the next pass writes where this one did

    def _recorded(self, base: PreTrainedModel, rows: int, positions: int) -> StaticCache | None:
        """A cache whose graph is recorded; None where that fails, and nothing is compiled any more."""
        config = base.config.get_text_config(decoder=True)
        made = StaticCache(config=config, max_cache_len=positions)
        embeds = torch.zeros(rows, 2, config.hidden_size, dtype=base.dtype, device=base.device)
        try:
            cast(Any, base).generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(rows, 2, dtype=torch.long, device=base.device),
                max_new_tokens=4,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                past_key_values=made,
                compile_config=self._config,
            )
        except RuntimeError as error:
            self._give_up(error)
            return None
        return made

    def _give_up(self, error: RuntimeError) -> None:
        """Compile nothing any more.

        Raises:
            RuntimeError: the error itself, where it is not the compiler's.
        """
        from torch._dynamo.exc import TorchDynamoException  # takes a while, and has been loaded where it is raised

        if not isinstance(error, TorchDynamoException):
            raise error
        first = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
        logger.warning("passes could not be compiled (%s); they go on without", first)
        self._works = False

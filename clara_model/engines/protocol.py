"""What writes from prompts, whichever engine it is. Leaves out what is asked (`inference`) and the model's passes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from torch import Tensor

from clara_model.modeling.generation import Generated
from clara_model.modeling.model import RoleModel
from clara_model.validation import Generation


class Reader(Protocol):
    """Who reads new ids as they are written; both calls raise where nobody does any more, and that ends the writing."""

    def put(self, value: Tensor) -> None:
        """New ids of the answer ``[T]``."""

    def check(self) -> None:
        """Called again and again while nothing is written."""


class Engine(Protocol):
    """Writes with the generator. Any number of threads may call it at once."""

    def write(
        self,
        model: RoleModel,
        prompts: Sequence[Sequence[int]],
        blocks: Sequence[Tensor],
        how: Generation,
        reader: Reader | None = None,
        priors: Sequence[float] | None = None,
    ) -> Generated:
        """Generate for each prompt.

        Args:
            model: gives the prompts' embeddings and reads the new ids.
            prompts: rows of ids with slots.
            blocks: for each prompt its latents ``[k, M, D]`` in slot order; an empty one for a prompt without slots.
            how: to generate.
            reader: of a stream, which is for one prompt only.
            priors: for each prompt what `Certainty.prior` gives; by default that of usual values.

        Raises:
            EngineError: it cannot be reached, serves another generator, or failed.
            ClaraError: what it is asked for is not in it.
        """

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Where calls of asynchronous callers wait."""

    def close(self) -> None:
        """Let go of its connections; closing twice is fine."""

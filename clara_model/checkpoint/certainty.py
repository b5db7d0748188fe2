"""How sure it is that what was read answers a question."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Self

from clara_model.errors import ClaraError, shown

MOST = 500.0
"""What is said of log odds: no float overflows."""


@dataclass(frozen=True, kw_only=True)
class Certainty:
    """How sure it is that what was read answers a question, for a generator that may also say that nothing does.

    The logistic function of ``bias + odds * o + latents * l + words * w``: ``o`` is the logarithm of how much likelier
    the best answer begins than ``no_answer``, ``l`` the latents' score of the best passage that is read, ``w`` the
    share of the question's words that stand in it. `examples/small/certainty.py` fits it on held-out questions.
    """

    odds: float = 1.0
    latents: float = 0.0
    words: float = 0.0
    bias: float = 0.0
    usual_latents: float = 0.0
    """Taken for ``l`` where nothing was ranked."""
    usual_words: float = 0.0
    """Taken for ``w`` where the texts are not known."""
    refuse_below: float = 0.5
    """Where it is less sure, ``no_answer`` is written."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ClaraError(f"certainty: {name} must be a number, got {shown(value)}")
        if self.odds <= 0 or not 0 < self.refuse_below < 1:
            raise ClaraError(
                f"certainty: odds must be above 0 and refuse_below between 0 and 1, got {shown(self.odds)} and "
                f"{shown(self.refuse_below)}"
            )

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read the fields' values by name; what is absent keeps its default."""
        known = [one.name for one in fields(cls)]
        if not isinstance(values, dict) or set(values) - set(known):
            raise ClaraError(f"certainty must be an object with some of {', '.join(known)}, got {shown(values)}")
        return cls(**values)

    def prior(self, latents: float | None, words: float | None) -> float:
        """What is known before the generator reads: log odds."""
        latents = self.usual_latents if latents is None else latents
        words = self.usual_words if words is None else words
        return self.bias + self.latents * latents + self.words * words

    def of(self, prior: float, odds: float) -> float:
        """From 0 to 1."""
        return 1 / (1 + math.exp(max(-MOST, min(-(prior + self.odds * odds), MOST))))

    def shift(self, prior: float) -> float:
        """What the logit of ``no_answer``'s first token gains, so that it is written below ``refuse_below``."""
        return (math.log(self.refuse_below / (1 - self.refuse_below)) - prior) / self.odds

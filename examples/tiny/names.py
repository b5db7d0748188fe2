"""Teach clara-tiny names: to find the document that a question is about wherever it stands, not where a search puts it.

The runs (`RUNS_BY_NAME`), each from the one before; `again.py` starts them. Rows are `data.named_rows`, in the
last runs `data.lookalike_rows`: in pools of relatives every document answers the question and only the name says which
is asked about. That is learned from two documents, and first by the generator alone: as long as it does not use the
names, a compressor that trains too gives them up, and from five documents at once they are not learned
(docs/experiments/clara-tiny-tried.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data import STAGE2_PARAPHRASES, lookalike_rows, named_rows, write
from world import World

BATCH, SEED = 64, 1_201
"""Rows of a step; seed of the first run's rows."""


@dataclass(frozen=True)
class ByName:
    """A run that teaches names."""

    recipe: str
    """Settings beside this file."""
    rows: Callable[[World, int], Iterator[dict]]
    """From a world, so many."""
    steps: int
    """Of `BATCH` rows."""
    settings: Mapping[str, object]
    """Other than the recipe's."""


FROZEN = {
    "generation_top_k": 2,
    "learning_rate": 1e-3,
    "lr_scheduler": "constant",
    "shuffle_documents": 1,
    "shuffle": True,
}
"""Stage 3 with two candidates, both read in random order: it leaves the compressor as it is. Its latents are kept, so
rows may come in any order."""
PAIRS = partial(named_rows, documents=(2,), kinds=("relatives",))
PAIRS_RETOLD = partial(PAIRS, paraphrases=STAGE2_PARAPHRASES)
FIVE = partial(
    named_rows, documents=(3, 4, 5, 5), kinds=("relatives", "alike", "mixed"), paraphrases=STAGE2_PARAPHRASES
)
LOOKALIKES = partial(lookalike_rows, group=BATCH, paraphrases=0.12)
"""Where the compressor trains, documents and questions are told again too: the query reasoner starts as it is. Few in
the last run, since they pull at the same latents as the answers do."""
RUNS_BY_NAME = {
    "frozen_pairs": ByName("stage3.yaml", PAIRS, 900, FROZEN),
    "frozen_pairs_again": ByName("stage3.yaml", PAIRS, 400, FROZEN),
    "pairs": ByName("names.yaml", PAIRS_RETOLD, 300, {"lr_scheduler": "constant"}),
    "five": ByName("names.yaml", FIVE, 700, {"lr_scheduler": "cosine"}),
    "lookalikes": ByName("names.yaml", LOOKALIKES, 700, {"lr_scheduler": "cosine"}),
    "lookalikes_again": ByName("names.yaml", LOOKALIKES, 700, {"lr_scheduler": "cosine"}),
}


def teach(
    begin: Path,
    folder: Path,
    train: Callable[[str, Path, str, Path, Mapping[str, object]], None],
    share: float = 1.0,
) -> Path:
    """One run after the other.

    Args:
        begin: a checkpoint.
        folder: for the rows.
        train: given a recipe, rows, the run's name, where it starts and settings.
        share: of every run's steps.

    Returns:
        The last run's checkpoint.
    """
    for number, (name, run) in enumerate(RUNS_BY_NAME.items()):
        rows = folder / f"{name}.jsonl"
        if not rows.is_file():
            write(rows, run.rows(World(SEED + number), math.ceil(run.steps * share) * BATCH))
        train(run.recipe, rows, name, begin, {"train_batch_size": BATCH, **run.settings})
        begin = folder / name
    return begin

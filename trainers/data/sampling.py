"""The order rows are trained in: one sequence over all epochs, made from the seed alone, so resuming needs no state.

Position ``p`` of the sequence names an epoch and a row. Shuffling moves groups of consecutive rows, so that rows which
share candidates stay in one batch where ``group`` is their number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainers.data.rows import JoinedRows, Row


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """A row in its place."""

    row: Row
    index: int
    """Of the row in its data set."""
    epoch: int
    """Counted from 0."""
    filler: bool = False
    """Only makes the processes' shares of the last step equal; nothing is learned from it."""


class TrainingOrder(Dataset[TrainingItem]):
    """All rows of all epochs in training order; a map-style data set to be read from the front."""

    def __init__(
        self,
        parts: Sequence[Sequence[Row]],
        *,
        epochs: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        group: int = 1,
        weights: Sequence[float] = (),
        limit: int | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            parts: the data sets.
            epochs: how often each row comes.
            seed: of the order.
            shuffle: keep the files' order where false.
            group: consecutive rows that stay together.
            weights: of the data sets in a mix. An epoch then is as long as without them, each set's rows are drawn
                without repetition until it is used up, and then again from its start in a new order.
            limit: rows used at most, the first ones.
        """
        self.parts, self.rows = list(parts), parts[0] if len(parts) == 1 else JoinedRows(parts)
        self.epochs, self.seed, self.shuffle, self.group = epochs, seed, shuffle, group
        self.multiple = 1
        self.weights = [weight / sum(weights) for weight in weights]
        self._count = min(len(self.rows), limit or len(self.rows))
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def filled(self, multiple: int) -> Self:
        """The same order with fillers behind it, up to a multiple of so many."""
        other = copy.copy(self)
        other.multiple = multiple
        return other

    @property
    def rows_to_train(self) -> int:
        """Rows times epochs."""
        return self._count * self.epochs

    def __len__(self) -> int:
        """Rows times epochs, and the fillers."""
        return -(-self.rows_to_train // self.multiple) * self.multiple

    def __getitem__(self, position: int) -> TrainingItem:
        """The row at a place of the sequence."""
        filler = position >= self.rows_to_train
        epoch, place = divmod(min(position, self.rows_to_train - 1), self._count)
        index = int(self.order(epoch)[place])
        return TrainingItem(self.rows[index], index, epoch, filler)

    def order(self, epoch: int) -> np.ndarray:
        """Row indices of one epoch, into `rows`."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._ordered(epoch)
        return self._order

    def _ordered(self, epoch: int) -> np.ndarray:
        rows = self._drawn(epoch) if self.weights else np.arange(self._count)
        if not self.shuffle:
            return rows
        generator = np.random.default_rng([self.seed, epoch])
        if self.group == 1:
            return generator.permutation(rows)
        groups = [rows[start : start + self.group] for start in range(0, self._count, self.group)]
        return np.concatenate([groups[i] for i in generator.permutation(len(groups))])

    def _drawn(self, epoch: int) -> np.ndarray:
        """A mix's rows of one epoch: each set's share, spread evenly."""
        ends = np.floor(np.cumsum(self.weights) * self._count + 0.5).astype(np.int64)
        shares = np.diff(ends, prepend=0)
        starts = np.cumsum([0, *[len(part) for part in self.parts]])
        drawn, places = [], []
        for number, (part, share) in enumerate(zip(self.parts, shares, strict=True)):
            drawn.append(starts[number] + self._part_places(number, len(part), epoch * share, share))
            places.append((np.arange(share) + 0.5) / max(1, share))
        return np.concatenate(drawn)[np.argsort(np.concatenate(places), kind="stable")]

    def _part_places(self, number: int, size: int, first: int, count: int) -> np.ndarray:
        """Places ``first .. first + count`` of a data set's own endless sequence of passes."""
        passes = range(first // size, (first + count - 1) // size + 1) if count else range(0)
        if self.shuffle:
            orders = [np.random.default_rng([self.seed, number, one]).permutation(size) for one in passes]
        else:
            orders = [np.arange(size) for _ in passes]
        start = first % size
        return np.concatenate([np.empty(0, dtype=np.int64), *orders])[start : start + count]


class WithoutFillers:
    """A collator that leaves fillers out.

    Of a batch of nothing but fillers one stays, since all processes must make the same passes; the batch is marked with
    ``filler``, and its loss does not count.
    """

    def __init__(self, collate: Callable[[Sequence[TrainingItem]], dict[str, Tensor]]) -> None:
        """Wrap a collator."""
        self.collate = collate

    def __call__(self, items: Sequence[TrainingItem]) -> dict[str, Tensor]:
        """The batch of the items that are no fillers."""
        real = [item for item in items if not item.filler]
        batch = self.collate(real or items[:1])
        return batch if real else {**batch, "filler": torch.ones(1)}

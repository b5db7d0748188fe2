"""The order rows are trained in: one sequence over all epochs, made from the seed alone, so resuming needs no state.

Position ``p`` of the sequence names an epoch and a row. Shuffling moves groups of consecutive rows, so that rows which
share candidates stay in one batch where ``group`` is their number. The rows of one step are arranged by length, so that
a micro-batch holds rows of like length and little padding; a step is the same however its rows are arranged.
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

from trainers.data.rows import JoinedRows, Row, files_of, length_of

POOL = 50
"""Steps whose rows are sorted together by ``by_length``, as in `transformers`."""


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
        step: int = 0,
        by_length: bool = False,
    ) -> None:
        """Nothing is read yet.

        Args:
            parts: the data sets; ``limit``: rows used at most, the first ones of each file, in proportion.
            epochs: how often each row comes, in an order from the ``seed``, or in the files' without ``shuffle``.
            group: consecutive rows that stay together.
            weights: of the data sets in a mix. An epoch then is as long as without them, each set's rows are drawn
                without repetition until it is used up, and then again from its start in a new order.
            step: rows of a step, which are arranged by length where rows are shuffled; 0 for not.
            by_length: make steps of rows of like length: the rows of `POOL` steps are sorted, the steps shuffled.
        """
        self.parts, self.rows = list(parts), parts[0] if len(parts) == 1 else JoinedRows(parts)
        self.epochs, self.seed, self.shuffle, self.group = epochs, seed, shuffle, group
        self.multiple, self.step, self.by_length = 1, step if shuffle else 0, by_length and shuffle
        self.weights = [weight / sum(weights) for weight in weights]
        self._count = min(len(self.rows), limit or len(self.rows))
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._step, self._arranged = -1, list[tuple[int, int]]()

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
        return -(-self.rows_to_train // self.multiple) * self.multiple

    def __getitem__(self, position: int) -> TrainingItem:
        filler = position >= self.rows_to_train
        epoch, index = self._at(min(position, self.rows_to_train - 1))
        return TrainingItem(self.rows[index], index, epoch, filler)

    def _at(self, position: int) -> tuple[int, int]:
        if not self.step:
            return self._unarranged(position)
        number, offset = divmod(position, self.step)
        if number != self._step:
            self._step, self._arranged = number, self._arrange(number * self.step)
        return self._arranged[offset]

    def _unarranged(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self._count)
        return epoch, int(self.order(epoch)[place])

    def _arrange(self, start: int) -> list[tuple[int, int]]:
        """The rows of the step that starts at a position, longest first; groups stay together."""
        positions = range(start, min(start + self.step, self.rows_to_train))
        groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for position in positions:
            epoch, place = divmod(position, self._count)
            groups.setdefault((epoch, place // self.group), []).append(self._unarranged(position))
        longest = {key: max(length_of(self.rows, index) for _, index in rows) for key, rows in groups.items()}
        return [row for key in sorted(groups, key=lambda key: -longest[key]) for row in groups[key]]

    def order(self, epoch: int) -> np.ndarray:
        """Row indices of one epoch, into `rows`."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._ordered(epoch)
        return self._order

    def _ordered(self, epoch: int) -> np.ndarray:
        rows = self._drawn(epoch) if self.weights else self._used()
        if not self.shuffle:
            return rows
        generator = np.random.default_rng([self.seed, epoch])
        if self.group == 1 and not self.by_length:
            return generator.permutation(rows)
        groups = [rows[start : start + self.group] for start in range(0, self._count, self.group)]
        order = generator.permutation(len(groups))
        if self.by_length:
            order = self._sorted(groups, order, generator)
        return np.concatenate([groups[i] for i in order])

    def _used(self) -> np.ndarray:
        total = len(self.rows)
        if self._count == total:
            return np.arange(total)
        sizes = np.array([len(file) for file in files_of(self.rows)])
        ends = np.floor(np.cumsum(sizes) * (self._count / total) + 0.5).astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        shares = np.diff(ends, prepend=0)
        return np.concatenate([start + np.arange(share) for start, share in zip(starts, shares, strict=True)])

    def _sorted(self, groups: list[np.ndarray], order: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Groups in an order that makes steps of like length; a last step that is not whole stays last."""
        longest = np.array([max(length_of(self.rows, int(row)) for row in group) for group in groups])
        whole = max(1, self.step // self.group)
        steps = []
        for start in range(0, len(order), POOL * whole):
            pool = order[start : start + POOL * whole]
            pool = pool[np.argsort(-longest[pool], kind="stable")]
            steps += [pool[first : first + whole] for first in range(0, len(pool), whole)]
        last = [steps.pop()] if len(steps[-1]) < whole else []
        return np.concatenate([*(steps[i] for i in generator.permutation(len(steps))), *last])

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
        self.collate = collate

    def __call__(self, items: Sequence[TrainingItem]) -> dict[str, Tensor]:
        """The batch of the items that are no fillers."""
        real = [item for item in items if not item.filler]
        batch = self.collate(real or items[:1])
        return batch if real else {**batch, "filler": torch.ones(1)}

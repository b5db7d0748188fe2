"""The training order: whole epochs, reproducible, groups kept, mixes by weight."""

import numpy as np
import pytest
import training_rows

from trainers.data.rows import Row, parse_row
from trainers.data.sampling import TrainingOrder, WithoutFillers

ROWS = [parse_row(row) for row in training_rows.question_rows(20)]


def indices(order: TrainingOrder) -> list[int]:
    return [order[i].index for i in range(len(order))]


def test_every_epoch_has_every_row_in_another_order():
    order = TrainingOrder([ROWS], epochs=3, seed=5)
    epochs = np.array(indices(order)).reshape(3, 20)
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert not (epochs[0] == epochs[1]).all()
    assert [order[i].epoch for i in (0, 19, 20, 59)] == [0, 0, 1, 2]
    assert order[7].row == ROWS[order[7].index]


def test_the_same_seed_gives_the_same_order_from_any_place():
    first, second = TrainingOrder([ROWS], epochs=2, seed=1), TrainingOrder([ROWS], epochs=2, seed=1)
    assert [second[i].index for i in reversed(range(40))] == indices(first)[::-1]
    assert indices(TrainingOrder([ROWS], epochs=2, seed=2)) != indices(first)


def test_the_files_order_is_kept_where_asked():
    assert indices(TrainingOrder([ROWS], shuffle=False)) == list(range(20))
    assert indices(TrainingOrder([ROWS[:5], ROWS[5:]], shuffle=False)) == list(range(20))


def test_groups_stay_together():
    order = np.array(indices(TrainingOrder([ROWS], seed=3, group=4))).reshape(5, 4)
    assert all(list(group) == list(range(group[0], group[0] + 4)) and group[0] % 4 == 0 for group in order)
    assert list(order[:, 0]) != sorted(order[:, 0])


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_mix_draws_by_weight_and_without_repetition(shuffle: bool):
    order = TrainingOrder([ROWS[:16], ROWS[16:]], epochs=2, weights=(0.6, 0.4), shuffle=shuffle)
    drawn = np.array(indices(order)).reshape(2, 20)
    for epoch in drawn:
        assert (epoch < 16).sum() == 12
        assert sorted(epoch[epoch >= 16]) == sorted([16, 17, 18, 19] * 2)
    assert len(set(drawn[0][drawn[0] < 16])) == 12
    assert set(drawn.ravel()) == set(range(20)), "what the first epoch left out comes in the second"


def test_a_weight_of_zero_leaves_a_set_out():
    assert max(indices(TrainingOrder([ROWS[:10], ROWS[10:]], weights=(1, 0)))) == 9


def test_fillers_only_make_the_last_step_even():
    order = TrainingOrder([ROWS[:5]], epochs=2, seed=1)
    filled = order.filled(4)
    assert (len(order), len(filled), filled.rows_to_train) == (10, 12, 10)
    assert [filled[i].index for i in range(10)] == [order[i].index for i in range(10)]
    assert [filled[i].filler for i in range(12)] == [False] * 10 + [True] * 2
    seen = []
    collate = WithoutFillers(lambda items: seen.append([item.filler for item in items]) or {})
    assert collate([filled[9], filled[10]]) == {} and "filler" in collate([filled[10], filled[11]])
    assert seen == [[False], [True]]


def long_rows(lengths: list[int]) -> list[Row]:
    return [Row(documents=("d" * n,), questions=("q",), answers=("a",)) for n in lengths]


def test_a_steps_rows_are_arranged_by_length_and_stay_in_their_step():
    lengths = np.random.default_rng(0).integers(1, 500, 30).tolist()
    plain = TrainingOrder([long_rows(lengths)], epochs=2, seed=3)
    arranged = TrainingOrder([long_rows(lengths)], epochs=2, seed=3, step=8)
    for start in range(0, 60, 8):
        places = range(start, min(start + 8, 60))
        was, now = ([(order[p].epoch, order[p].index) for p in places] for order in (plain, arranged))
        assert sorted(now) == sorted(was)
        sizes = [lengths[index] for _, index in now]
        assert sizes == sorted(sizes, reverse=True)


def test_arranging_keeps_groups_and_the_files_own_order():
    lengths = [n % 7 for n in range(24)]
    groups = indices(TrainingOrder([long_rows(lengths)], seed=1, group=4, step=12))
    assert all(groups[i : i + 4] == list(range(groups[i], groups[i] + 4)) for i in range(0, 24, 4))
    assert indices(TrainingOrder([long_rows(lengths)], shuffle=False, step=12)) == list(range(24))


def test_steps_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 500, 1001).tolist()
    order = TrainingOrder([long_rows(lengths)], seed=3, step=10, by_length=True)
    rows = indices(order)
    assert sorted(rows) == list(range(1001)) and rows == indices(order)
    spread = [np.ptp([lengths[row] for row in rows[start : start + 10]]) for start in range(0, 1000, 10)]
    assert np.mean(spread) < 40, "of 500"
    first = [max(lengths[row] for row in rows[start : start + 10]) for start in range(0, 1000, 10)]
    assert np.corrcoef(first, range(100))[0, 1] ** 2 < 0.1, "in no order of length"


def test_fewer_rows_are_taken_from_every_file():
    order = TrainingOrder([ROWS[:4], ROWS[4:16]], shuffle=False, limit=8)
    assert indices(order) == [0, 1, 4, 5, 6, 7, 8, 9]

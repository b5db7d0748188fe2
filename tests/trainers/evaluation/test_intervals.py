"""Bootstrap intervals, retained share and paired tests, on cases that can be worked out by hand."""

import random

import pytest

from trainers.evaluation.summary import difference_interval, mean_interval, paired_p, retained_interval

OWN = [str(n) for n in range(200)]


def test_an_interval_holds_the_mean_and_is_as_wide_as_theory_says():
    values = [float(n % 2) for n in range(200)]
    found = mean_interval(values, OWN)
    assert found.value == 0.5
    half = 1.96 * (0.25 / 200) ** 0.5  # of a share of one half
    assert found.high - found.low == pytest.approx(2 * half, rel=0.12)
    assert mean_interval(values, OWN) == found  # a fixed seed


def test_questions_of_one_document_count_as_one():
    values = [float(n < 100) for n in range(200)]
    alone, together = mean_interval(values, OWN), mean_interval(values, [str(n // 20) for n in range(200)])
    assert together.value == alone.value
    assert together.high - together.low > 3 * (alone.high - alone.low)
    assert mean_interval(values, ["one"] * 200).low is None


def test_what_is_retained_is_a_ratio_of_gains():
    system, text, closed = [0.5] * 200, [0.9] * 200, [0.1] * 200
    found = retained_interval(system, text, closed, OWN)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert retained_interval(system, closed, text, OWN) is None  # text gains nothing


def test_equal_systems_differ_by_luck_and_a_better_one_does_not():
    chance = random.Random(0)
    theirs = [float(chance.random() < 0.5) for _ in OWN]
    shuffled = random.Random(1).sample(theirs, len(theirs))
    assert paired_p(shuffled, theirs, OWN) > 0.2
    assert paired_p(theirs, theirs, OWN) == 1.0
    better = [max(a, float(n % 4 == 0)) for n, a in enumerate(theirs)]
    assert paired_p(better, theirs, OWN) < 0.001
    assert difference_interval(better, theirs, OWN).low > 0


def test_a_test_over_clusters_has_no_more_pairs_than_clusters():
    ours, theirs = [1.0] * 60, [0.0] * 60
    p = paired_p(ours, theirs, [str(n // 20) for n in range(60)])
    assert p == pytest.approx(2 / 2**3)  # three clusters: the most extreme of eight sign patterns, two-sided


@pytest.mark.filterwarnings("error")
def test_equal_figures_have_a_point_for_an_interval_and_warn_of_nothing():
    found = mean_interval([1.0] * 40, OWN[:40])
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert difference_interval([0.5] * 40, [0.5] * 40, OWN[:40]).high == 0.0
    assert paired_p([0.5] * 40, [0.5] * 40, OWN[:40]) == 1.0


@pytest.mark.filterwarnings("error")
def test_draws_in_which_text_gains_nothing_are_left_out_without_a_warning():
    text, closed = [1.0, *[0.0] * 9], [0.0] * 10  # one question of ten: a third of the draws lack it
    found = retained_interval(text, text, closed, OWN[:10])
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)

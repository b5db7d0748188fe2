"""What `trust.py` counts, on numbers worked out by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "small"))
trust = pytest.importorskip("trust")


def test_confidence_is_counted_by_fifths_of_the_scale():
    found = list(trust.reliability([0.9, 1.0, 0.5], [0.1, 0.85, 0.15]))
    assert [(round(mean, 6), share, count) for mean, share, count in found] == [
        (0.125, 0.0, 2), (0.5, 1.0, 1), (round((0.9 + 1.0 + 0.85) / 3, 6), 2 / 3, 3)
    ]  # fmt: skip
    assert trust.share_below([0.5, 0.49, 0.1], 0.5) == 2 / 3
    assert trust.auc([0.9, 0.5], [0.5, 0.1]) == 0.875

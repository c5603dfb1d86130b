"""When a training loss counts as one that diverged."""

import math

import pytest

from dataecho.training.divergence import Divergence


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([2.3, 1.0, 0.1], [False, False, False]),
        ([2.3, 23.0, 23.1], [False, False, True]),  # more than ten times the first
        ([0.1, math.nan], [False, True]),
        ([math.inf], [True]),
        ([50.0, 2.3, 2.3], [False, False, False]),  # never learns: a miss
        ([-1.0, 90.0], [False, False]),  # a log density has no ratio
    ],
)
def test_what_diverges(losses, found):
    divergence = Divergence(10)
    assert [divergence.found_in(loss) for loss in losses] == found


def test_without_a_ratio_only_what_is_no_number_diverges():
    divergence = Divergence(None)
    assert [divergence.found_in(loss) for loss in (1.0, 1e9, math.nan)] == [False, False, True]

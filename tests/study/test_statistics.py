"""Intervals hold what they promise with three, five and eight repeats; exact ranks count by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from dataecho_study.statistics import (
    NoComparison,
    RankComparison,
    WelchComparison,
    best_factors,
    compare,
    compare_ratios,
    contrast,
    holm,
    mean_interval,
    p_few,
    p_most,
)

INF = math.inf


@pytest.mark.parametrize("num_repeats", [3, 5, 8])
@pytest.mark.parametrize(("spread", "other"), [(0.1, 0.1), (0.3, 0.1)])
def test_ninety_percent_intervals_of_a_ratio_cover_the_truth_in_ninety_percent(num_repeats, spread, other):
    rng = np.random.default_rng(num_repeats)
    intervals = [
        compare(
            0.6 * np.exp(spread * rng.standard_normal(num_repeats)), np.exp(other * rng.standard_normal(num_repeats))
        ).interval()
        for _ in range(2000)
    ]

    covered = np.mean([found.low < 0.6 < found.high for found in intervals])

    assert 0.88 < covered < 0.935  # 0.7 % is the error of 2000 simulations; Welch covers a little more at n = 3


@pytest.mark.parametrize("num_repeats", [3, 5, 8])
def test_intervals_of_one_mean_cover_the_truth_in_ninety_percent(num_repeats):
    rng = np.random.default_rng(num_repeats)
    intervals = [mean_interval(1e4 * np.exp(0.2 * rng.standard_normal(num_repeats))) for _ in range(2000)]

    assert 0.88 < np.mean([found.low < 1e4 < found.high for found in intervals]) < 0.92


@pytest.mark.parametrize("num_repeats", [3, 5, 8])
def test_a_test_by_ranks_errs_at_most_as_often_as_it_promises_with_ties_and_missed_targets(num_repeats):
    rng = np.random.default_rng(num_repeats)

    def costs():
        drawn = np.round(np.exp(0.3 * rng.standard_normal(num_repeats)), 1)
        return np.where(drawn > 1.3, INF, drawn)

    p_values = [RankComparison(top=tuple(costs()), bottom=tuple(costs())).p_below(1) for _ in range(1000)]

    assert 0.005 < np.mean(np.asarray(p_values) <= 0.05) <= 0.065


def test_the_ratio_is_one_of_geometric_means_and_the_p_value_that_of_scipy():
    top, bottom = [80.0, 90.0, 100.0], [150.0, 160.0, 210.0, 200.0]

    found = compare(top, bottom)

    welch = stats.ttest_ind(np.log(top), np.log(bottom), equal_var=False, alternative="less")
    low, high = welch.confidence_interval(0.95)
    assert isinstance(found, WelchComparison)
    assert found.interval().estimate == pytest.approx(stats.gmean(top) / stats.gmean(bottom))
    assert found.p_below(1) == pytest.approx(welch.pvalue)
    assert found.p_above(1) == pytest.approx(1 - welch.pvalue)
    assert (found.interval().high, low) == (pytest.approx(math.exp(high)), -INF)


def test_the_smallest_effect_is_the_ratio_at_which_the_test_just_rejects():
    found = compare([95.0, 100.0, 106.0], [100.0, 111.0, 120.0])

    ratio = found.smallest_below(1, 0.05)

    moved = WelchComparison(log_ratio=math.log(ratio), error=found.error, degrees=found.degrees)
    assert moved.p_below(1) == pytest.approx(0.05)
    assert found.smallest_above(1, 0.05) == pytest.approx(1 / ratio)


def test_missed_targets_are_ranked_last():
    found = compare([1.0, 2.0, 3.0], [4.0, INF, INF])

    assert found.method == "exact ranks"
    assert found.p_below(1) == pytest.approx(1 / 20)  # one of comb(6, 3) divisions is this extreme
    assert found.p_above(1) == 1
    assert (found.interval().low, found.interval().high) == (0, pytest.approx(3 / 4))


def test_ties_share_their_rank():
    found = RankComparison(top=(1.0, 2.0), bottom=(2.0, 3.0))

    # Ranks 1, 2.5, 2.5, 4. The sums of two: 3.5 twice, 5 twice, 6.5 twice.
    assert found.p_below(1) == pytest.approx(2 / 6)
    assert found.p_above(1) == pytest.approx(1)


def test_cells_without_spread_are_compared_by_ranks_and_not_declared_certain():
    assert compare([1.0] * 3, [2.0] * 3).p_below(1) == pytest.approx(1 / 20)
    assert compare([1.0] * 5, [1.0] * 5).p_below(1) == 1


def test_two_missed_targets_leave_the_ratio_open():
    found = compare([INF] * 5, [INF] * 5)

    assert (found.p_below(1), found.p_above(1)) == (1, 1)
    assert (found.interval().low, found.interval().high) == (0, INF)
    assert found.smallest_below(1) is None


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ([(1, [1.0]), (-1, [2.0, 3.0])], "it takes two repeats of each cell"),
        ([(1, [1.0, INF]), (-1, [2.0, 3.0])], "targets were missed"),
        ([(1, [1.0, 1.0]), (-1, [2.0, 2.0])], "the repeats have no spread"),
    ],
)
def test_a_contrast_that_cannot_be_known_says_why(terms, reason):
    found = contrast(terms)

    assert isinstance(found, NoComparison)
    assert reason in found.method
    assert (found.p_below(0.1), found.p_above(0.1), found.interval().high) == (1, 1, INF)


def test_a_ratio_of_ratios_adds_the_variances_of_four_cells():
    rng = np.random.default_rng(0)
    cells = [np.exp(0.2 * rng.standard_normal(5)) for _ in range(4)]

    found = contrast([(1, cells[0]), (-1, cells[1]), (-1, cells[2]), (1, cells[3])])

    assert found.error == pytest.approx(math.sqrt(sum(np.var(np.log(cell), ddof=1) / 5 for cell in cells)))
    assert 4 < found.degrees <= 16


def test_holm_adjusts_in_order_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_the_best_factor_of_each_repeat_is_the_smaller_of_equals_and_ignores_what_is_incomplete():
    costs = {
        4.0: {0: 3.0, 1: 7.0, 2: INF, 3: 1.0},
        1.0: {0: 9.0, 1: 7.0, 2: INF},
        2.0: {0: 5.0, 1: 8.0, 2: INF, 3: 1.0},
    }

    assert best_factors(costs) == {0: 4.0, 1: 1.0}
    assert best_factors({}) == {}


def test_most_and_few_are_exact():
    assert p_most(5, 5) == pytest.approx(1 / 32)
    assert p_few(0, 5) == pytest.approx(1 / 32)
    assert p_most(0, 0) == 1


def test_ratios_of_ratios_with_missed_targets_are_ranked_by_repeat():
    found = compare_ratios([5.0, INF, 6.0], [1.0, 1.0, 1.0], [2.0, 3.0, 4.0], [2.0, 2.0, 2.0])
    unknown = compare_ratios([INF, 1.0], [INF, 1.0], [1.0, 2.0], [1.0, 1.0])

    assert (found.method, found.p_above(1)) == ("exact ranks", pytest.approx(1 / 20))
    assert "both cells of a ratio missed the target" in unknown.method

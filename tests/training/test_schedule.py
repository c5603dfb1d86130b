"""Schedules are functions of the spent fraction."""

import pytest

from dataecho.errors import SettingError
from dataecho.training.schedule import ConstantSchedule, LinearDecay


def values(schedule):
    return [schedule.factor(fraction) for fraction in (0.0, 0.5, 1.0)]


def test_the_constant_schedule_is_one_throughout():
    assert values(ConstantSchedule()) == [1, 1, 1]
    assert ConstantSchedule().is_constant


@pytest.mark.parametrize(
    ("final", "expected"), [(0.0, [1, 0.5, 0]), (0.01, [1, 0.505, 0.01]), (0.5, [1, 0.75, 0.5]), (1.0, [1, 1, 1])]
)
def test_linear_decay_is_a_straight_line_to_its_final_fraction(final, expected):
    assert values(LinearDecay(final_fraction=final)) == pytest.approx(expected, abs=1e-15)
    assert not LinearDecay(final_fraction=final).is_constant


def test_linear_decay_ends_at_a_hundredth_by_default():
    assert LinearDecay().factor(1.0) == pytest.approx(0.01, abs=1e-15)


@pytest.mark.parametrize("final", [-0.1, 1.1, float("nan")])
def test_a_final_fraction_outside_of_zero_to_one_is_refused(final):
    with pytest.raises(
        SettingError, match=rf"^schedule.final_fraction={final} cannot be used. Allowed: \[0, 1\]. 0.01"
    ):
        LinearDecay(final_fraction=final)

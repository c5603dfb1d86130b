"""The contract suite of schedules. Subclass :class:`ScheduleContract` in a test file; pytest does the rest.

class TestMySchedule(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        return MySchedule(final_fraction=0.1)
"""

from __future__ import annotations

import abc
import math

import pytest

from dataecho.training.schedule import Schedule

_SPENT = [number / 100 for number in range(101)]


class ScheduleContract(abc.ABC):
    """A schedule is a pure function of the spent fraction, with values in [0, 1].

    ``decays``: it starts at the base rate and never rises; set it to False for a schedule that warms up.
    """

    decays = True

    @pytest.fixture
    @abc.abstractmethod
    def schedule(self) -> Schedule:
        """The schedule, with settings that make it change if it can."""

    def test_it_is_a_schedule(self, schedule: Schedule) -> None:
        assert isinstance(schedule, Schedule)

    def test_every_factor_is_a_number_from_0_to_1(self, schedule: Schedule) -> None:
        for spent in _SPENT:
            factor = schedule.factor(spent)
            assert isinstance(factor, float) and math.isfinite(factor) and 0 <= factor <= 1, f"factor({spent})={factor}"

    def test_no_update_is_in_vain(self, schedule: Schedule) -> None:
        for spent in _SPENT[:-1]:  # after the last there is no other
            assert schedule.factor(spent) > 0, f"factor({spent}) = 0: a batch that changes nothing"

    def test_a_decay_starts_at_the_base_rate_and_never_rises(self, schedule: Schedule) -> None:
        factors = [schedule.factor(spent) for spent in _SPENT]
        starts_at_1 = factors[0] == 1
        never_rises = factors == sorted(factors, reverse=True)
        assert (starts_at_1 and never_rises) == self.decays

    def test_a_factor_depends_on_nothing_but_the_spent_fraction(self, schedule: Schedule) -> None:
        factors = {spent: schedule.factor(spent) for spent in _SPENT}
        for spent in reversed(_SPENT):
            assert schedule.factor(spent) == factors[spent]

    def test_it_says_truly_whether_it_is_constant(self, schedule: Schedule) -> None:
        assert schedule.is_constant == (len({schedule.factor(spent) for spent in _SPENT}) == 1)

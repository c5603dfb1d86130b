"""Learning-rate schedules, as functions of the spent fraction of the budget: every echo factor sees the whole curve."""

from __future__ import annotations

import abc
from bisect import bisect_right
from collections.abc import Sequence

from dataecho.errors import require


class Schedule(abc.ABC):
    """A factor for the base learning rate."""

    @property
    @abc.abstractmethod
    def is_constant(self) -> bool:
        """Whether the factor is the same throughout. A budget in seconds allows no other schedule."""

    @abc.abstractmethod
    def factor(self, spent_fraction: float) -> float:
        """The factor for the base rate after ``spent_fraction`` (in [0, 1]) of the budget."""


class ConstantSchedule(Schedule):
    """1 throughout."""

    is_constant = True

    def factor(self, spent_fraction: float) -> float:
        return 1.0


class LinearDecay(Schedule):
    """From 1 down to ``final_fraction`` in a straight line (paper, section 2: 1/100 for ResNet-32, 1/1000 for
    ResNet-50)."""

    is_constant = False

    def __init__(self, *, final_fraction: float = 0.01) -> None:
        require(
            0 <= final_fraction <= 1,
            "schedule.final_fraction",
            final_fraction,
            allowed="[0, 1]",
            cure="0.01 ends at a hundredth of the base rate.",
        )
        self._final_fraction = final_fraction

    def factor(self, spent_fraction: float) -> float:
        return 1.0 - (1.0 - self._final_fraction) * spent_fraction


class WarmUpDrops(Schedule):
    """From ``start`` up to 1 in a straight line over the first ``warm_up`` of the budget; then 1, times ``drop`` at
    each of ``drops``, shares of the budget (paper, section 2: a warm-up of 3.5 epochs and two drops by 10 for SSD).
    The first update has the rate ``start``, above 0 so that the first batch counts."""

    is_constant = False

    def __init__(self, *, warm_up: float, drops: Sequence[float], drop: float = 0.1, start: float = 0.001) -> None:
        require(
            0 <= warm_up < 1,
            "schedule.warm_up",
            warm_up,
            allowed="[0, 1), a share of the budget",
            cure="0.05 warms up for a twentieth of it.",
        )
        require(
            len(drops) > 0 and list(drops) == sorted(set(drops)) and warm_up <= drops[0] and drops[-1] < 1,
            "schedule.drops",
            list(drops),
            allowed=f"one or more shares of the budget, rising, from schedule.warm_up={warm_up} to below 1",
            cure="[0.66, 0.83] drops after two thirds and after five sixths; schedule=constant never.",
        )
        require(
            0 < start <= 1,
            "schedule.start",
            start,
            allowed="(0, 1], a share of the base rate",
            cure="0.001 is the default; a rate of 0 would train nothing.",
        )
        require(0 < drop < 1, "schedule.drop", drop, allowed="(0, 1)", cure="0.1 leaves a tenth at every drop.")
        self._warm_up, self._drops, self._drop, self._start = warm_up, list(drops), drop, start

    def factor(self, spent_fraction: float) -> float:
        if spent_fraction < self._warm_up:
            return self._start + (1 - self._start) * spent_fraction / self._warm_up
        return self._drop ** bisect_right(self._drops, spent_fraction)

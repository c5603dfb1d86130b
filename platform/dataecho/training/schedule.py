"""Learning-rate schedules, as functions of the spent fraction of the budget: every echo factor sees the whole curve."""

from __future__ import annotations

import abc

from dataecho.errors import require


class Schedule(abc.ABC):
    """Multiplies the base learning rate."""

    @property
    @abc.abstractmethod
    def is_constant(self) -> bool:
        """Whether the spent fraction does not matter; only such a schedule fits a budget in seconds."""

    @abc.abstractmethod
    def factor(self, spent_fraction: float) -> float:
        """What the base rate is multiplied by after ``spent_fraction`` (in [0, 1]) of the budget."""


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

"""Cosine decay without warm restarts."""

from __future__ import annotations

import math

from dataecho.errors import SettingError
from dataecho.training.schedule import Schedule


class CosineSchedule(Schedule):
    """From the base rate down to `final_fraction` of it along half a cosine (Loshchilov and Hutter 2017, eq. 5)."""

    is_constant = False

    def __init__(self, *, final_fraction: float = 0.0) -> None:
        # "Not inside" and not "outside", so that NaN is refused too.
        if not (isinstance(final_fraction, int | float) and 0.0 <= final_fraction <= 1.0):
            raise SettingError(
                "schedule.final_fraction",
                final_fraction,
                allowed="a number from 0 to 1, the fraction of the base rate that is left at the end",
                cure="For a tenth of the base rate write 0.1.",
            )
        self.final_fraction = float(final_fraction)

    def factor(self, spent_fraction: float) -> float:
        """The factor of the base rate when `spent_fraction` (0 to 1) of the budget is spent."""
        return self.final_fraction + (1.0 - self.final_fraction) * 0.5 * (1.0 + math.cos(math.pi * spent_fraction))

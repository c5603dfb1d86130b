"""The budget of a run, in exactly one unit."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho.declare import SettingGroup, setting
from dataecho.errors import SettingError

_CURE = "Give the run something to spend."


@dataclass(frozen=True, kw_only=True)
class Budget(SettingGroup, key="budget"):
    """How long a run may last; exactly one unit is given."""

    fresh: int | None = setting(
        None, above=0, help="Fresh examples to train on; repeats cost nothing, as in the paper (section 3).", cure=_CURE
    )
    steps: int | None = setting(None, above=0, help="Updates of the weights.", cure=_CURE)
    seconds: float | None = setting(
        None,
        above=0,
        help="Seconds of train_time. A resumed run is not bit-exact, and the schedule must be constant.",
        cure=_CURE,
    )

    def __post_init__(self) -> None:
        given = {unit: value for unit in ("fresh", "steps", "seconds") if (value := getattr(self, unit)) is not None}
        if len(given) != 1:
            shown = ", ".join(f"{unit}={value}" for unit, value in given.items()) or "nothing"
            raise SettingError(
                "budget",
                shown,
                allowed="exactly one of fresh, steps, seconds",
                cure="For instance budget=steps budget.steps=1000, or budget=task for the task's own.",
            )
        super().__post_init__()

    def __str__(self) -> str:
        if self.fresh is not None:
            return f"{self.fresh:,} fresh examples"
        return f"{self.steps:,} steps" if self.steps is not None else f"{self.seconds:g} seconds"

    def forbids(self, *, fresh: int, num_fresh: int, steps: int, seconds: float) -> bool:
        """Whether a batch with ``num_fresh`` fresh rows would exceed the budget after this much was spent.

        A budget in fresh examples always allows a batch without fresh rows: its examples are paid for.
        """
        if self.fresh is not None:
            return num_fresh > 0 and fresh + num_fresh > self.fresh
        if self.steps is not None:
            return steps + 1 > self.steps
        assert self.seconds is not None
        return seconds >= self.seconds

    def spent_fraction(self, *, fresh: int, steps: int, seconds: float) -> float:
        """The spent share of the budget, in [0, 1]."""
        for spent, total in ((fresh, self.fresh), (steps, self.steps), (seconds, self.seconds)):
            if total is not None:
                return min(1.0, spent / total)
        raise AssertionError("a budget has a unit")

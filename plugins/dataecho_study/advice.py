"""Advice from the winners of a study: what happens to each tuned setting as the echo factor grows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from scipy import special, stats

from dataecho_study.results import Cell, Study
from dataecho_study.selection import FactorGroup, factor_groups
from dataecho_study.statistics import CONFIDENCE, Interval

RATE, MOMENTUM = "optimizer.learning_rate", "optimizer.momentum"
REST = f"1 - {MOMENTUM}"
EFFECTIVE = f"{RATE} / (1 - momentum)"  # the step that a constant gradient leads to


@dataclass(frozen=True, kw_only=True)
class Trend:
    """One setting of the winners, in cells that differ by factor only. ``values``: by factor, in words: the geometric
    mean of numbers, or how often each choice won (``is_choice``). ``change``: of a number with each doubling of the
    factor, a ratio with its interval; None for choices, and where a line cannot be fitted."""

    setting: str
    where: str
    values: dict[float, str]
    is_choice: bool
    change: Interval | None

    @property
    def sentence(self) -> str:
        """The trend in words."""
        if self.change is None:
            return "winners are counted: a choice has no trend" if self.is_choice else "too few winners, or all alike"
        found = self.change
        limits = f"{found.low:.2f} to {found.high:.2f}"
        if found.high < 1:
            return f"falls: {found.estimate:.2f} times with each doubling of the factor ({limits})"
        if found.low > 1:
            return f"grows: {found.estimate:.2f} times with each doubling of the factor ({limits})"
        return f"no trend shown: {found.estimate:.2f} times with each doubling ({limits})"


def trends(study: Study) -> list[Trend]:
    """The trends of all tuned settings, for each group of cells that differ by factor only. The repeats of a cell that
    was tuned once are one winner."""
    found = []
    for group in factor_groups(study, {}):
        winners = {factor: _winners(cell, study) for factor, cell in group.cells.items()}
        winners = {factor: settings for factor, settings in winners.items() if settings}
        if len(winners) > 1:
            names = dict.fromkeys(name for settings in winners.values() for one in settings for name in one)
            found += [_trend(name, group, winners) for name in names]
    return found


def _winners(cell: Cell, study: Study) -> list[dict[str, Any]]:
    """The settings of winners that reached the target, with 1 - momentum instead of momentum, and the effective
    learning rate."""
    found = []
    for repeat in cell.repeats:
        if math.isfinite(repeat.fresh):
            settings = dict(repeat.settings)
            if _is_number(settings.get(MOMENTUM)):
                settings[REST] = 1 - settings.pop(MOMENTUM)
                if _is_number(settings.get(RATE)) and settings[REST] > 0:
                    settings[EFFECTIVE] = settings[RATE] / settings[REST]
            found.append(settings)
    return found[:1] if study.is_tuned_once else found


def _trend(name: str, group: FactorGroup, winners: Mapping[float, Sequence[Mapping[str, Any]]]) -> Trend:
    by_factor = {factor: [one[name] for one in settings if name in one] for factor, settings in winners.items()}
    by_factor = {factor: values for factor, values in by_factor.items() if values}
    points = [(factor, value) for factor, values in by_factor.items() for value in values]
    if not all(_is_number(value) and value > 0 for _, value in points):
        counts = {factor: _counted(values) for factor, values in by_factor.items()}
        return Trend(setting=name, where=group.label, values=counts, is_choice=True, change=None)
    return Trend(
        setting=name,
        where=group.label,
        values={factor: f"{stats.gmean(values):.3g}" for factor, values in by_factor.items()},
        is_choice=False,
        change=_slope(np.log2([factor for factor, _ in points]), np.log([value for _, value in points])),
    )


def _slope(doublings: np.ndarray, logs: np.ndarray) -> Interval | None:
    """The change with each doubling, by a straight line through the logarithms."""
    if len(logs) < 3 or np.ptp(logs) == 0 or np.ptp(doublings) == 0:
        return None
    line = stats.linregress(doublings, logs)
    half = special.stdtrit(len(logs) - 2, (1 + CONFIDENCE) / 2) * line.stderr
    low, middle, high = np.exp([line.slope - half, line.slope, line.slope + half])
    return Interval(low=float(low), estimate=float(middle), high=float(high))


def _counted(values: Sequence[Any]) -> str:
    return ", ".join(f"{value} ({number}x)" for value, number in Counter(map(str, values)).most_common())


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

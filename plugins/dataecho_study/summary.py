"""Each cell of a study in numbers: mean, smallest and largest cost, and its ratio to the cell without echo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataecho_study.claims import Measure
from dataecho_study.results import ECHO, FACTOR, NO_ECHO, SHUFFLE_BUFFER, Cell, Study
from dataecho_study.selection import costs
from dataecho_study.statistics import Interval, compare


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """``costs``: of the repeats, in the order of their numbers; ``mean`` is infinite where a target was missed, and not
    a number without repeats. ``base_mean``: that of the cell without echo, None if the study has none or the cell is
    the base itself; ``ratio``: of the mean costs, with its interval; ``method``: how it was found."""

    cell: Cell
    costs: tuple[float, ...]
    base_mean: float | None
    ratio: Interval | None
    method: str

    @property
    def mean(self) -> float:
        return float(np.mean(self.costs)) if self.costs else math.nan

    @property
    def smallest(self) -> float:
        return min(self.costs, default=math.nan)

    @property
    def largest(self) -> float:
        return max(self.costs, default=math.nan)

    @property
    def num_reached(self) -> int:
        return sum(math.isfinite(cost) for cost in self.costs)

    @property
    def ideal(self) -> float:
        """The ratio if a repeat were worth as much as a fresh example."""
        return 1 / float(self.cell.axes.get(FACTOR, 1.0))


def summarize(study: Study, measure: Measure = "fresh") -> list[CellSummary]:
    """The summaries of all cells, in the study's order."""
    return [_summary(cell, base_of(study.cells, cell), measure) for cell in study.cells]


def base_of(cells: Sequence[Cell], cell: Cell) -> Cell | None:
    """The cell without echo that agrees on all axes. Where an echo's shuffle buffer is no length of the base's, it is
    the base with the middle length."""
    bases = [one for one in cells if _is_base(one) and _others(one) == _others(cell)]
    same = [one for one in bases if one.axes.get(SHUFFLE_BUFFER) == cell.axes.get(SHUFFLE_BUFFER)]
    found = same or sorted(
        (one for one in bases if one.repeats), key=lambda one: float(one.axes.get(SHUFFLE_BUFFER, 0))
    )
    return found[(len(found) - 1) // 2] if found else None


def _summary(cell: Cell, base: Cell | None, measure: Measure) -> CellSummary:
    mine = costs(cell, measure)
    if base is None or base is cell or not mine or not base.repeats:
        return CellSummary(cell=cell, costs=tuple(mine), base_mean=None, ratio=None, method="")
    theirs = costs(base, measure)
    found = compare(mine, theirs)
    return CellSummary(
        cell=cell,
        costs=tuple(mine),
        base_mean=float(np.mean(theirs)),
        ratio=found.interval(),
        method=found.method,
    )


def _is_base(cell: Cell) -> bool:
    return cell.axes.get(ECHO) == NO_ECHO or (ECHO not in cell.axes and cell.axes.get(FACTOR) == 1)


def _others(cell: Cell) -> dict[str, float | str]:
    return {axis: value for axis, value in cell.axes.items() if axis not in (ECHO, FACTOR, SHUFFLE_BUFFER)}

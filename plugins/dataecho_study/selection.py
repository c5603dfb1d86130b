"""Which cells of a study a claim compares: selections, pairs, groups along an axis, the factors of a group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from dataecho_study.claims import Measure, Selection
from dataecho_study.results import ECHO, FACTOR, NO_ECHO, THROTTLE_RATIO, Cell, Study

#: Factors up to this much above R as measured still count as at most R: a throttle holds R within a few percent.
TOLERANCE = 1.1


class HasAxes(Protocol):
    """A cell, or a group of cells."""

    @property
    def axes(self) -> Mapping[str, float | str]: ...


T = TypeVar("T", bound=HasAxes)


@dataclass(frozen=True, kw_only=True)
class FactorGroup:
    """Cells that differ by factor only. ``axes``: those that they share, with the echo of the factors above 1;
    ``cells``: by factor, in order; ``ratio``: R as measured (geometric mean), or as set where it was not measured, None
    where it is unknown."""

    axes: dict[str, float | str]
    cells: dict[float, Cell]
    ratio: float | None

    @property
    def label(self) -> str:
        """The shared axes in words."""
        return words(self.axes) or "all cells"

    def up_to_ratio(self) -> list[float]:
        """Factors above 1 that are at most R."""
        return [factor for factor in self.cells if factor > 1 and factor <= TOLERANCE * (self.ratio or 0)]

    def above_ratio(self) -> list[float]:
        """Factors above R; none where R is unknown."""
        return [] if self.ratio is None else [factor for factor in self.cells if factor > TOLERANCE * self.ratio]


def select(study: Study, selection: Selection) -> list[Cell]:
    """The cells whose axes have the selected values, in the study's order."""
    return [cell for cell in study.cells if all(_has(cell, axis, wanted) for axis, wanted in selection.items())]


def pairs(study: Study, cells: Selection, than: Selection) -> list[tuple[Cell, Cell]]:
    """Each selected cell with each of its partners: they agree on every axis that neither selection names. ``echo`` and
    ``factor`` count as one axis."""
    free = _named(cells) | _named(than)
    return [
        (cell, partner)
        for cell in select(study, cells)
        for partner in select(study, than)
        if cell is not partner and _agree(cell, partner, free)
    ]


def sequences(
    cells: Sequence[T], along: str, values: Sequence[float | str] | None = None
) -> list[dict[float | str, T]]:
    """Cells that differ along one axis only, by its value, in the order of ``values`` (or of numbers). The cell without
    echo belongs to every sequence along ``echo`` or ``factor``."""
    is_echo = along in (ECHO, FACTOR)
    bases = [cell for cell in cells if is_echo and cell.axes.get(ECHO) == NO_ECHO]
    groups: dict[tuple, list[T]] = {}
    for cell in cells:
        if cell not in bases:
            others = tuple(sorted((axis, value) for axis, value in cell.axes.items() if axis != along))
            groups.setdefault(others, []).append(cell)
    for base in bases:
        for members in groups.values():
            if _agree(base, members[0], {ECHO, FACTOR}):
                members.append(base)
    by_value = [{cell.axes[along]: cell for cell in members if along in cell.axes} for members in groups.values()]
    return [
        {value: found[value] for value in (sorted(found, key=_number) if values is None else values) if value in found}
        for found in by_value
    ]


def factor_groups(study: Study, selection: Selection) -> list[FactorGroup]:
    """The selected cells by everything but their factor, the cells without echo (factor 1) included."""
    chosen = select(study, selection)
    if not any(cell.axes.get(ECHO) == NO_ECHO for cell in chosen):
        rest = {axis: value for axis, value in selection.items() if axis not in (ECHO, FACTOR)}
        chosen = [*chosen, *select(study, {**rest, ECHO: NO_ECHO})]
    groups = []
    for by_factor in sequences(chosen, FACTOR):
        cells = {float(factor): cell for factor, cell in by_factor.items()}
        axes = {axis: value for axis, value in cells[max(cells)].axes.items() if axis != FACTOR}
        groups.append(FactorGroup(axes=axes, cells=cells, ratio=_ratio(list(cells.values()))))
    return groups


def costs(cell: Cell, measure: Measure) -> list[float]:
    """The costs of a cell's repeats, in the order of their numbers."""
    return list(costs_by_repeat(cell, measure).values())


def costs_by_repeat(cell: Cell, measure: Measure) -> dict[int, float]:
    """The costs of a cell's repeats, by number."""
    return {repeat.number: getattr(repeat, measure) for repeat in sorted(cell.repeats, key=lambda one: one.number)}


def quality(cell: Cell, goal: str) -> list[float]:
    """The best held-out values as costs, so that ratios mean the same for both goals: 1 / value where large values are
    good. Infinite where the value is not finite or, as no ratio exists then, not positive."""
    values = [repeat.best for repeat in sorted(cell.repeats, key=lambda one: one.number)]
    usable = [value if math.isfinite(value) and value > 0 else math.nan for value in values]
    return [math.inf if math.isnan(value) else value if goal == "min" else 1 / value for value in usable]


def difference(cell: Cell, other: Cell) -> str:
    """Two cells by the axes in which they differ: ``echo=batch factor=2 : echo=none``."""
    axes = [axis for axis in {**cell.axes, **other.axes} if cell.axes.get(axis) != other.axes.get(axis)]
    shared = [axis for axis in cell.axes if axis not in axes and axis not in (ECHO, FACTOR)]
    where = words(cell.axes, shared)
    return f"{words(cell.axes, axes)} : {words(other.axes, axes)}" + (f" ({where})" if where else "")


def words(axes: Mapping[str, float | str], names: Sequence[str] | None = None) -> str:
    """Axes, all or those of ``names``, as ``echo=batch factor=2``."""
    return " ".join(f"{axis}={_shown(axes[axis])}" for axis in (axes if names is None else names) if axis in axes)


def _named(selection: Selection) -> set[str]:
    named = set(selection)
    return named | {ECHO, FACTOR} if named & {ECHO, FACTOR} else named


def _agree(cell: HasAxes, other: HasAxes, free: set[str]) -> bool:
    return all(cell.axes.get(axis) == other.axes.get(axis) for axis in {*cell.axes, *other.axes} - free)


def _has(cell: Cell, axis: str, wanted: float | str | list[float | str]) -> bool:
    return cell.axes.get(axis) in (wanted if isinstance(wanted, list) else [wanted])


def _number(value: float | str) -> tuple[bool, float, str]:
    return (False, float(value), "") if not isinstance(value, str) else (True, 0.0, value)


def _ratio(cells: Sequence[Cell]) -> float | None:
    measured = [repeat.ratio for cell in cells for repeat in cell.repeats if repeat.ratio]
    if measured:
        return float(np.exp(np.mean(np.log(measured))))
    ratios = [cell.axes[THROTTLE_RATIO] for cell in cells if THROTTLE_RATIO in cell.axes]
    return float(ratios[0]) if ratios else None


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"

"""Draws the cost of every cell like the paper's Fig. 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dataecho_search.report.cells import CellSummary

_GAP = 0.8  # between workloads, in bars


def draw_costs(cells: Sequence[CellSummary], path: Path, *, objective: str) -> str:
    """Write a PNG to ``path``: a bar for each cell, with the mean over the repeats, an error bar from the smallest to
    the largest, and a dashed line at the cost of an ideal echo (cost without echo / factor). Returns the reason if
    nothing was drawn, else an empty text."""
    drawn = [cell for cell in cells if cell.costs]
    if not any(cell.reached for cell in drawn):
        return "no repeat of any cell has reached the target"
    varied = _varied(drawn)
    figure = Figure(figsize=(max(4.5, 1.5 + 1.1 * len(drawn)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    arms = list(dict.fromkeys(cell.arm for cell in drawn))
    position, ticks, labels = 0.0, [], []
    for workload, group in groupby(sorted(drawn, key=lambda cell: cell.workload), key=lambda cell: cell.workload):
        members = list(group)
        start = position
        for cell in members:
            _draw_cell(axes, cell, position, color=f"C{arms.index(cell.arm)}")
            ticks.append(position)
            labels.append(cell.arm.replace("_", "\n").replace(" ", "\n") or cell.name)
            position += 1
        name = "  ".join(f"{key}={value}" for key, value in workload if key in varied)
        axes.annotate(
            name,
            ((start + position - 1) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
        position += _GAP
    if any(_ideal_cost(cell) is not None for cell in drawn):
        axes.plot([], [], color="black", linestyle="--", label="without echo / factor")
        axes.legend(fontsize="small")
    axes.set_xticks(ticks, labels, fontsize="small")
    axes.set_ylabel(objective.replace("_", " "))
    axes.set_ylim(bottom=min(0.0, *axes.get_ylim()))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=120)
    return ""


def _draw_cell(axes: Axes, cell: CellSummary, position: float, *, color: str) -> None:
    if not cell.reached:
        axes.annotate("never", (position, 0), xytext=(0, 3), textcoords="offset points", ha="center", color="grey")
    else:
        height = sum(cell.reached) / len(cell.reached)
        whole = len(cell.reached) == len(cell.costs)
        axes.bar(position, height, width=0.8, color=color, alpha=1.0 if whole else 0.4, hatch="" if whole else "//")
        errors = [[height - min(cell.reached)], [max(cell.reached) - height]]
        axes.errorbar(position, height, yerr=errors, color="black", capsize=4, linewidth=1.2)
        label = f"{cell.ratio:.2f}x" if cell.ratio is not None and cell.ideal != 1 else ""
        if not whole:  # the mean is infinite: draw that of the repeats that reached the target
            label = f"{len(cell.reached)} of {len(cell.costs)}\nreached"
        top = (position, max(cell.reached))
        axes.annotate(label, top, xytext=(0, 4), textcoords="offset points", ha="center", fontsize="small")
    ideal = _ideal_cost(cell)
    if ideal is not None:
        axes.hlines(ideal, position - 0.48, position + 0.48, color="black", linestyle="--", zorder=3)


def _ideal_cost(cell: CellSummary) -> float | None:
    """Return the cost if repeats were worth as much as fresh examples; None for the baseline itself."""
    if cell.baseline is None or cell.ideal in (None, 1.0) or not math.isfinite(cell.baseline):
        return None
    return cell.baseline * cell.ideal


def _varied(cells: Sequence[CellSummary]) -> set[str]:
    """Return the settings that differ between cells: only they name a workload."""
    keys = {key for cell in cells for key, _ in cell.workload}
    return {key for key in keys if len({cell.cell.get(key) for cell in cells}) > 1}

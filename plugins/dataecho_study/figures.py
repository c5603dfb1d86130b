"""A study's picture, as PNG and SVG, with the paper's values pale beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator
from pydantic import BaseModel, ConfigDict

from dataecho_study import paper
from dataecho_study.claims import Axis, Measure
from dataecho_study.results import BATCH_SIZE, ECHO, FACTOR, NO_ECHO, SHUFFLE_BUFFER, THROTTLE_RATIO, Cell, Study
from dataecho_study.selection import words
from dataecho_study.summary import CellSummary, summarize

ECHOES = (NO_ECHO, "batch", "after_augmentation", "example", "before_augmentation")  # the paper's, from left to right
Curve = Callable[[np.ndarray], np.ndarray]

_COLOURS = dict(zip(ECHOES, ("#666666", "C0", "C1", "C2", "C2"), strict=True))
_X_LABELS = {
    FACTOR: "echo factor",
    BATCH_SIZE: "batch size",
    SHUFFLE_BUFFER: "shuffle buffer in examples",
    THROTTLE_RATIO: "R, as set by the throttle",
}
_Y_LABELS = {"fresh": "fresh examples to target", "seconds": "seconds to target"}
_PALE = 0.35
_THEIRS = "C3"
_MARKERS = "osD^vP"


class Picture(BaseModel):
    """The axes of a study's picture. ``y``: ``fresh`` and ``seconds`` are costs to target, drawn as ratios to no echo
    unless ``x`` is ``echo``; ``best``: best held-out values, with the gap to training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    x: Axis = "echo"
    y: Literal["fresh", "seconds", "best"] = "fresh"


def draw(
    study: Study, folder: Path, picture: Picture, *, curves: Mapping[str, Curve] | None = None, curve_label: str = ""
) -> list[Path]:
    """Write ``<study>_<task>.png`` and ``.svg`` to ``folder``, and return their paths. ``curves``: by the label of a
    line, as :func:`line_label` has it, the ratio as a function of x, drawn between the measured ends."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    if picture.y == "best":
        _draw_quality(figure, study)
    elif picture.x == ECHO:
        _draw_bars(figure.add_subplot(), study, picture.y)
    else:
        if picture.x == THROTTLE_RATIO and picture.y == "seconds" and not curves:
            curves, curve_label = time_model(study), "time model"
        _draw_lines(figure.add_subplot(), study, picture.x, picture.y, curves or {}, curve_label)
    figure.suptitle(title(study), fontsize="medium", color="black" if study.is_complete else "firebrick")
    return save(figure, folder / f"{study.name}_{study.task}")


def title(study: Study) -> str:
    """The study's name, and that it has not ended."""
    text = f"{study.name.replace('_', ' ').capitalize()}: {study.task}, {study.backend}, scale {study.scale}"
    return text if study.is_complete else f"{text} (unfinished)"


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG, the same bytes for the same content; return both paths."""
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png, dpi=130, metadata={"Software": None})
    with matplotlib.rc_context({"svg.hashsalt": "dataecho"}):
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


def line_label(cell: Cell, x: str) -> str:
    """The line to which a cell belongs: its axes other than ``x``. Along the factor, all echoes but none are told
    apart."""
    return words({axis: value for axis, value in cell.axes.items() if axis != x and not (axis == FACTOR and x == ECHO)})


def time_model(study: Study) -> dict[str, Curve]:
    """By the label of a line: time relative to no echo as a function of R, ``fresh(e) / fresh(1) * max(1, e / R)``,
    with the fresh examples measured at all R together."""
    found: dict[str, list[CellSummary]] = {}
    for one in summarize(study, "fresh"):
        if one.ratio is not None and 0 < one.ratio.estimate < math.inf:
            found.setdefault(line_label(one.cell, THROTTLE_RATIO), []).append(one)
    return {label: _time(members) for label, members in found.items()}


def _time(members: Sequence[CellSummary]) -> Curve:
    factor = float(members[0].cell.axes.get(FACTOR, 1))
    fresh = np.exp(np.mean([math.log(one.ratio.estimate) for one in members if one.ratio is not None]))
    return lambda ratios: fresh * np.maximum(1, factor / ratios)


def _draw_bars(axes: Axes, study: Study, measure: Measure) -> None:
    """A bar for each cell with its repeats, from the smallest to the largest; a dash at the ideal cost; the paper's
    ratio at our baseline."""
    found = sorted((one for one in summarize(study, measure) if one.costs), key=lambda one: _place(one.cell))
    theirs = paper.values(study.name, study.task)
    for place, one in enumerate(found):
        _draw_bar(axes, place, one)
        if one.base_mean is not None and theirs is not None and math.isfinite(one.base_mean):
            ratio = theirs[1][""].get(str(one.cell.axes.get(ECHO)))
            if ratio is not None:
                axes.bar(place + 0.36, ratio * one.base_mean, width=0.2, color=_THEIRS, alpha=_PALE)
                _note(axes, f"{ratio:.2f}", place + 0.36, ratio * one.base_mean, color=_THEIRS)
    axes.set_xticks(range(len(found)), [_bar_label(one.cell) for one in found], fontsize="small")
    axes.set_ylabel(_Y_LABELS[measure])
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.plot([], [], "--", color="black", linewidth=1, label="no echo / factor")
    if theirs is not None:
        axes.bar([0], [0], color=_THEIRS, alpha=_PALE, label=f"paper's ratio ({theirs[0]})")
    _finish(axes)
    axes.set_ylim(bottom=0)


def _draw_bar(axes: Axes, place: float, one: CellSummary) -> None:
    reached = [cost for cost in one.costs if math.isfinite(cost)]
    if not reached:
        _note(axes, "never\nreached", place, 0)
        return
    height, is_whole = sum(reached) / len(reached), one.num_reached == len(one.costs)
    colour = _COLOURS.get(str(one.cell.axes.get(ECHO)), "C4")
    axes.bar(place, height, width=0.5, color=colour, alpha=1 if is_whole else 0.4, hatch="" if is_whole else "//")
    axes.errorbar(place, height, [[height - min(reached)], [max(reached) - height]], color="black", capsize=4)
    axes.plot([place] * len(reached), reached, "o", color="white", markeredgecolor="black", markersize=3.5)
    note = f"{one.ratio.estimate:.2f}" if one.ratio is not None and math.isfinite(one.ratio.estimate) else ""
    _note(axes, note if is_whole else f"{one.num_reached} of {len(one.costs)}\nreached", place, max(reached))
    if one.base_mean is not None and math.isfinite(one.base_mean):
        level = one.base_mean * one.ideal
        axes.hlines(level, place - 0.3, place + 0.3, color="black", linestyle="--", linewidth=1, zorder=3)


def _draw_lines(
    axes: Axes, study: Study, x: Axis, measure: Measure, curves: Mapping[str, Curve], curve_label: str
) -> None:
    """A line for each combination of the other axes: ratio to no echo, with its 90 % interval."""
    lines: dict[str, list[CellSummary]] = {}
    for one in summarize(study, measure):
        if one.ratio is not None and x in one.cell.axes:
            lines.setdefault(line_label(one.cell, x), []).append(one)
    theirs = paper.values(study.name, study.task)
    if theirs is not None:
        _draw_their_lines(axes, theirs)
    for number, (label, members) in enumerate(lines.items()):
        colour = f"C{number}" if number < 3 else f"C{number + 1}"  # C3 is the paper's
        members = sorted(members, key=lambda one: float(one.cell.axes[x]))
        _draw_line(axes, members, x, colour=colour, label=label, marker=_MARKERS[number % len(_MARKERS)])
        if label in curves:
            places = np.geomspace(_at(members[0], x), _at(members[-1], x), 100)
            axes.plot(places, curves[label](places), color=colour, linewidth=1, linestyle=(0, (5, 2)))
    if any(label in curves for label in lines):
        axes.plot([], [], color="black", linewidth=1, linestyle=(0, (5, 2)), label=curve_label)
    _ideal(axes, [one for members in lines.values() for one in members], x)
    axes.axhline(1, color="0.6", linewidth=0.8)
    axes.set_xlabel(_X_LABELS.get(x, x))
    axes.set_ylabel(f"{_Y_LABELS[measure]},\nratio to no echo (bars: 90 % intervals)")
    _scale(axes, x, sorted({_at(one, x) for members in lines.values() for one in members}))
    _finish(axes, outside=True)


def _draw_line(axes: Axes, members: Sequence[CellSummary], x: str, *, colour: str, label: str, marker: str) -> None:
    start = [1.0] if x == FACTOR else []  # where every line is 1
    places, ratios, lows, highs = [*start], [*start], [0.0 for _ in start], [0.0 for _ in start]
    for one in members:
        found = one.ratio
        if found is None or not math.isfinite(found.estimate) or found.estimate <= 0:
            axes.plot(_at(one, x), 0.97, "x", color=colour, transform=axes.get_xaxis_transform())
            continue
        places.append(_at(one, x))
        ratios.append(found.estimate)
        lows.append(found.estimate - found.low if found.low > 0 else 0.0)
        highs.append(found.high - found.estimate if math.isfinite(found.high) else 0.0)
    axes.errorbar(places, ratios, [lows, highs], color=colour, marker=marker, markersize=5, capsize=3, label=label)


def _draw_their_lines(axes: Axes, theirs: tuple[str, paper.Series]) -> None:
    """The paper's lines. Its batch sizes and buffers differ from ours: they stand at their own x."""
    name, series = theirs
    for number, (label, points) in enumerate(series.items()):
        axes.plot(
            [float(x) for x in points],
            list(points.values()),
            label=f"paper ({name}): {label}",
            color=_THEIRS,
            alpha=_PALE,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
        )


def _draw_quality(figure: Figure, study: Study) -> None:
    """Left: the best held-out value of each repeat. Right: what training is ahead of held-out data at the end."""
    left, right = figure.subplots(1, 2)
    cells = sorted((cell for cell in study.cells if cell.repeats), key=_place)
    means = {}
    for place, cell in enumerate(cells):
        colour = _COLOURS.get(str(cell.axes.get(ECHO)), "C4")
        best = [repeat.best for repeat in cell.repeats if math.isfinite(repeat.best)]
        gaps = [repeat.train - repeat.best for repeat in cell.repeats if repeat.train is not None and best]
        for axes, values in ((left, best), (right, [gap for gap in gaps if math.isfinite(gap)])):
            axes.plot([place] * len(values), values, "o", color=colour, alpha=0.6)
            if values:
                axes.hlines(sum(values) / len(values), place - 0.25, place + 0.25, color=colour)
        if best:
            means[str(cell.axes.get(ECHO))] = (place, sum(best) / len(best))
    _draw_their_quality(left, study, means)
    labels = [_bar_label(cell) for cell in cells]
    for axes in (left, right):
        axes.set_xticks(range(len(cells)), labels, fontsize="small", rotation=30, ha="right", rotation_mode="anchor")
        axes.margins(x=0.15)
        _finish(axes)
    left.set_ylabel(f"best held-out {study.metric}")
    right.set_ylabel(f"training less held-out {study.metric}")


def _draw_their_quality(axes: Axes, study: Study, means: Mapping[str, tuple[int, float]]) -> None:
    theirs = paper.values(study.name, study.task)
    if theirs is None or NO_ECHO not in means:
        return
    name, series = theirs
    points = series[""]
    mine = {echo: means[echo] for echo in points if echo in means and echo != NO_ECHO}
    if mine:
        places = [place + 0.3 for place, _ in mine.values()]
        level = [float(points[echo]) / float(points[NO_ECHO]) * means[NO_ECHO][1] for echo in mine]
        axes.plot(places, level, "D", color=_THEIRS, alpha=_PALE, label=f"paper's ratio ({name})")


def _ideal(axes: Axes, found: Sequence[CellSummary], x: str) -> None:
    if x == FACTOR and found:
        last = max(_at(one, x) for one in found)
        axes.plot([1, last], [1, 1 / last], color="black", linestyle=":", linewidth=1, label="ideal: 1 / factor")


def _scale(axes: Axes, x: str, places: Sequence[float]) -> None:
    """Logarithmic axes, with the measured values as ticks; x is linear near 0, where a buffer may be none."""
    positive = [place for place in places if place > 0]
    if len(positive) < len(places):
        smallest = min(positive, default=1.0)
        axes.set_xscale("symlog", linthresh=smallest, linscale=0.3)
        axes.set_xlim(left=-smallest / 2)
    else:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([1.0, *places] if x == FACTOR else list(places)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1e4 else EngFormatter(sep="")(value))
    axes.xaxis.set_minor_locator(NullLocator())
    if x in (FACTOR, THROTTLE_RATIO):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
        axes.tick_params(axis="y", which="minor", labelsize="small")


def _finish(axes: Axes, *, outside: bool = False) -> None:
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if outside else {"loc": "best"}
        axes.legend(fontsize="x-small", framealpha=0.8, **place)


def _note(axes: Axes, text: str, x: float, y: float, *, color: str = "black") -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize="x-small",
        color=color,
    )


def _at(one: CellSummary, x: str) -> float:
    return float(one.cell.axes[x])


def _place(cell: Cell) -> tuple[int, str]:
    echo = str(cell.axes.get(ECHO))
    return ECHOES.index(echo) if echo in ECHOES else len(ECHOES), cell.key


def _bar_label(cell: Cell) -> str:
    """``batch`` or ``before augmentation``, and the factor below."""
    echo, factor = str(cell.axes.get(ECHO, cell.key)), float(cell.axes.get(FACTOR, 1))
    rest = {axis: value for axis, value in cell.axes.items() if axis not in (ECHO, FACTOR)}
    lines = [echo.replace("_augmentation", "\naugmentation"), f"factor {factor:g}" if factor > 1 else "", words(rest)]
    return "\n".join(line for line in lines if line)

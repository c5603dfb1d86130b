"""Learning curves against fresh examples: the axis on which arms compare fairly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dataecho.training.spool import read_spool


def learning_curves(
    runs: Mapping[str, Path], path: Path, *, metric: str, target: float, bottom: float | None = None
) -> Path:
    """A PNG at ``path``: ``metric`` over fresh examples for every run folder in ``runs`` (label to folder)."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (label, folder) in enumerate(runs.items()):
        marks = [entry.metrics for entry in read_spool(folder) if metric in entry.metrics]
        color = f"C{number}"
        axes.plot(
            [mark["fresh_examples"] for mark in marks],
            [mark[metric] for mark in marks],
            label=label,
            color=color,
            marker=".",
        )
        reached = next((mark["fresh_examples"] for mark in marks if mark.get("reached_target")), None)
        if reached is not None:
            axes.axvline(reached, color=color, linewidth=0.8, linestyle=":")
    axes.axhline(target, color="grey", linewidth=0.8, linestyle="--")
    axes.annotate(
        f"target {target:g}", (1, target), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="grey"
    )
    axes.set_xlabel("fresh examples")
    axes.set_ylabel(metric)
    axes.set_xlim(left=0)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    return path

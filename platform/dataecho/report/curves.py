"""Learning curves against fresh examples: the axis on which arms compare fairly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dataecho.training.spool import read_spool


def learning_curves(
    runs: Sequence[tuple[str, Path]], path: Path, *, metric: str, target: float, higher_is_better: bool
) -> Path:
    """A PNG at ``path``: ``metric`` over fresh examples for every (label, run folder) of ``runs``.

    Dotted lines mark where runs first reached the target. The worst seventh of the values, from the start of training,
    is cut off, since it would flatten the rest.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    seen = [target]
    for number, (label, folder) in enumerate(runs):
        marks = [entry.metrics for entry in read_spool(folder) if metric in entry.metrics]
        color = f"C{number}"
        axes.plot(
            [mark["fresh_examples"] for mark in marks],
            [mark[metric] for mark in marks],
            label=label,
            color=color,
            marker=".",
        )
        seen += [mark[metric] for mark in marks if math.isfinite(mark[metric])]
        reached = next((mark["fresh_examples"] for mark in marks if mark.get("reached_target")), None)
        if reached is not None:
            axes.axvline(reached, color=color, linewidth=0.8, linestyle=":")
    axes.axhline(target, color="grey", linewidth=0.8, linestyle="--")
    axes.annotate(
        f"target {target:g}",
        (0.01, target),
        xytext=(0, -3 if higher_is_better else 3),  # away from the edge of the picture
        textcoords="offset points",
        xycoords=("axes fraction", "data"),
        va="top" if higher_is_better else "bottom",
        color="grey",
    )
    axes.set_xlabel("fresh examples")
    axes.set_ylabel(metric)
    axes.set_xlim(left=0)
    low, high = np.quantile(seen, [1 / 7, 1] if higher_is_better else [0, 6 / 7])
    margin = 0.03 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if higher_is_better else "upper right")
    figure.savefig(path, dpi=120)
    return path

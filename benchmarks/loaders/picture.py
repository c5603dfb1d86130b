"""Draws the last measurements of ``loaders/compare.py`` and ``engine/time_model.py``.

    python -m benchmarks.loaders.picture docs/results/benchmarks.png

Bars are medians of all rounds, lines on them quartiles; points are medians of rounds, lines what the model says.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks.loaders.compare import APART

OURS = "dataecho"
TITLES = {
    "jpeg": "JPEG files of 256 px, random resized crop",
    "small": "images of 32 px from memory",
    "tokens": "token rows from memory",
}
CASES = {"throttled": "tab:blue", "contended": "tab:orange"}

#: Examples per second in every round, by loader.
Rates = dict[str, list[float]]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of JSON in ``path``."""
    return map(json.loads, path.read_text().splitlines())


def newest(path: Path) -> dict[str, Rates]:
    """By workload, what the last run of ``loaders/compare.py`` that had it has measured."""
    found: dict[str, Rates] = {}
    run: dict[str, Rates] = {}
    for line in lines(path):
        if line["phase"] == "machine":
            run = defaultdict(lambda: defaultdict(list))
        elif line["phase"] == "compare":
            run[line["workload"]][line["name"]].append(line["rate"])
            found[line["workload"]] = run[line["workload"]]
    return found


def draw_loaders(axes: Axes, workload: str, rates: Rates) -> None:
    """One bar for each loader, the fastest on top, with its ratio to the best peer."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max(value for name, value in medians.items() if name != OURS and name not in APART)
    names = sorted(medians, key=lambda name: medians[name])
    quartiles = {name: statistics.quantiles(rates[name], n=4) for name in names}
    axes.barh(
        names,
        [medians[name] for name in names],
        xerr=[
            [medians[name] - quartiles[name][0] for name in names],
            [quartiles[name][2] - medians[name] for name in names],
        ],
        color=["tab:blue" if name == OURS else "lightgrey" if name in APART else "tab:grey" for name in names],
        error_kw={"linewidth": 1},
    )
    for number, name in enumerate(names):
        axes.annotate(f" {medians[name] / best:.2f}", (quartiles[name][2], number), va="center", fontsize="small")
    axes.set(title=TITLES[workload], xlabel="examples / s (numbers: against the best peer)")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.margins(x=0.12)


def draw_model(axes: Axes, path: Path) -> None:
    """Delivered examples per second against the factor, both cases; the model as a line."""
    rates: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for line in lines(path):
        rates[line["case"], line["factor"]].append((line["rate"], line["model"]))
    for case, colour in CASES.items():
        factors = sorted(factor for name, factor in rates if name == case)
        measured, model = (
            [statistics.median(pair[part] for pair in rates[case, factor]) for factor in factors] for part in (0, 1)
        )
        axes.plot(factors, model, color=colour, linewidth=1, label=f"{case}: the time model")
        axes.plot(factors, measured, "o", color=colour, label=f"{case}: measured")
    axes.set(
        title="echo before augmentation",
        xlabel="echo factor",
        ylabel="delivered examples / s",
        ylim=(0, None),
        xscale="log",
    )
    axes.set_xticks(factors, [str(factor) for factor in factors])
    axes.minorticks_off()
    axes.legend(fontsize="small")


def main() -> None:
    """Draw, and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--loaders", type=Path, default=Path("runs/loaders.jsonl"))
    parser.add_argument("--time-model", type=Path, default=Path("runs/time_model.jsonl"))
    options = parser.parse_args()
    found = newest(options.loaders)
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for workload in TITLES:
        draw_loaders(next(panels), workload, found[workload])
    draw_model(next(panels), options.time_model)
    figure.savefig(options.picture, dpi=110)
    print(options.picture)


if __name__ == "__main__":
    main()

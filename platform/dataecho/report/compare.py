"""``mode=report``: a comparison of finished runs, as a table and a picture."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dataecho.errors import SettingError, require
from dataecho.invocation import command
from dataecho.moved import current_name
from dataecho.report.console import new_console
from dataecho.report.curves import learning_curves
from dataecho.report.summary import FILE_NAME
from dataecho.training.metrics import METRICS

_COLUMNS = ("fresh_examples_to_target", "steps_to_target", "train_time_to_target", "wall_time_to_target")


def compare_runs(patterns: Sequence[str], folder: Path) -> None:
    """Print a table of the runs that ``patterns`` (folders, with wildcards) name, and write ``report.md`` and
    ``learning_curves.png`` into ``folder``. Raises :class:`SettingError` where there is nothing to compare."""
    found = [path for pattern in patterns for path in _matching(pattern)]
    unfinished = [path for path in found if path.is_dir() and not (path / FILE_NAME).exists()]
    if unfinished:
        print(f"Left out, for they have no {FILE_NAME}: {', '.join(map(str, unfinished))}")
    runs = {path: _read(path) for path in found if path.is_dir() and path not in unfinished}
    require(
        bool(runs),
        "runs",
        list(patterns),
        allowed="folders of finished runs, wildcards allowed",
        cure="For instance: " + command("mode=report", "'runs=[runs/*/*]'"),
    )
    tasks = {
        (current_name(summary["config"]["task"]["_target_"]), summary["config"]["task"]["target"])
        for summary in runs.values()
    }
    require(
        len(tasks) == 1,
        "runs",
        sorted(tasks),
        allowed="runs of one task to one target",
        cure="Report the others by themselves.",
    )
    labels = _labels(runs)
    lines = [
        "| run | " + " | ".join(name.replace("_", " ") for name in _COLUMNS) + " |",
        "|---|" + "---:|" * len(_COLUMNS),
    ]
    table = Table("run", *(name.replace("_", " ") for name in _COLUMNS))
    for path, summary in runs.items():
        cells = [_cell(name, summary[name]) for name in _COLUMNS]
        table.add_row(labels[path], *cells)
        lines.append(f"| {labels[path]} | " + " | ".join(cells) + " |")
    first = next(iter(runs.values()))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    picture = learning_curves(
        [(labels[path], path) for path in runs],
        folder / "learning_curves.png",
        metric=first["metric"],
        target=first["config"]["task"]["target"],
        higher_is_better=first["higher_is_better"],
    )
    console = new_console()
    console.print(table)
    console.print(f"{folder / 'report.md'}\n{picture}", soft_wrap=True)


def _matching(pattern: str) -> list[Path]:
    """The path with exactly this name, brackets included; else the paths that match its wildcards."""
    return [Path(pattern)] if Path(pattern).exists() else [Path(path) for path in sorted(glob.glob(pattern))]


def _read(path: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads((path / FILE_NAME).read_text())
        return summary
    except (OSError, ValueError) as error:
        raise SettingError(
            "runs", str(path), allowed="folders of finished runs", cure=f"{FILE_NAME} cannot be read: {error}"
        ) from error


def _labels(runs: dict[Path, dict[str, Any]]) -> dict[Path, str]:
    """Echo and factor; where these are equal, also the seed, and where that is equal, the folder."""
    labels = {}
    for path, summary in runs.items():
        config = summary["config"]
        labels[path] = config["echo"]["name"] + _factor(config["factor"])
    seeds = {path: f" seed {summary['seed']}" for path, summary in runs.items()}
    for more in (seeds, {path: f" {path}" for path in runs}):
        seen = list(labels.values())
        labels = {path: label + (more[path] if seen.count(label) > 1 else "") for path, label in labels.items()}
    return labels


def _factor(setting: float | str | None) -> str:
    if isinstance(setting, str):
        return " auto" if setting == "auto" else " recorded"
    return f" {setting:g}" if setting is not None else ""


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:.2f} s" if METRICS[name].unit == "s" else f"{value:,}"

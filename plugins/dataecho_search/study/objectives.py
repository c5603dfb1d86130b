"""The objectives of a study, and their values in a finished run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from dataecho.errors import require
from dataecho.report.summary import FILE_NAME as SUMMARY
from dataecho.tracking.record import read_record
from dataecho_search.study.results import COMPLETED, DIVERGED, PRUNED

Direction = Literal["minimize", "maximize"]
MINIMIZE: Direction = "minimize"
MAXIMIZE: Direction = "maximize"
#: Stands for the task's own metric at the end of a run, under any name.
METRIC = "metric"
_MINIMIZED = ("_to_target", "_loss", "_time", "_examples")


@dataclass(frozen=True)
class Objective:
    """A number of a run's summary, or ``metric``, and the direction in which it improves."""

    name: str
    direction: Direction

    def value(self, summary: Mapping[str, Any]) -> float:
        """Return the value in ``summary``, infinitely bad where the run has none: a missed target costs infinitely
        much, not the budget. Raises :class:`SettingError` for a name that the summary lacks."""
        name = summary["metric"] if self.name == METRIC else self.name
        require(
            name in summary,
            "hydra.sweeper.objective",
            self.name,
            allowed=f"{METRIC}, or a number of {SUMMARY}: {', '.join(sorted(numbers(summary)))}",
            cure="fresh_examples_to_target is the default.",
        )
        value = summary[name]
        if value is None or not math.isfinite(value):
            return math.inf if self.direction == MINIMIZE else -math.inf
        return float(value)


def read_objectives(names: Any, directions: Any, *, higher_is_better: bool) -> tuple[Objective, ...]:
    """Read one name or a list of names. ``directions``: one for each, or None to derive them from the names;
    ``higher_is_better``: of the task's metric. Raises :class:`SettingError`."""
    names = [names] if isinstance(names, str) else list(names)
    given = [directions] * len(names) if directions is None or isinstance(directions, str) else list(directions)
    require(
        bool(names) and len(set(names)) == len(names),
        "hydra.sweeper.objective",
        names,
        allowed="one or several different names",
        cure="fresh_examples_to_target is the default.",
    )
    require(
        len(given) == len(names),
        "hydra.sweeper.direction",
        given,
        allowed=f"as many as objectives, {len(names)}",
        cure="Leave it out to go by the names.",
    )
    objectives = []
    for name, direction in zip(names, given, strict=True):
        if direction is None and name == METRIC:
            direction = MAXIMIZE if higher_is_better else MINIMIZE
        if direction is None and name.endswith(_MINIMIZED):
            direction = MINIMIZE
        require(
            direction in get_args(Direction),
            "hydra.sweeper.direction",
            direction,
            allowed=f"{MINIMIZE}, {MAXIMIZE}",
            cure=f"Say which for {name}: hydra.sweeper.direction={MAXIMIZE}, for instance.",
        )
        objectives.append(Objective(name, cast(Direction, direction)))
    return tuple(objectives)


@dataclass(frozen=True)
class RunOutcome:
    """The end of a run by its folder. ``state``: as in :mod:`~dataecho_search.study.results`; ``values``: one for each
    objective of a completed run, else empty."""

    state: str
    values: tuple[float, ...]
    metrics: Mapping[str, float]
    mlflow_run_id: str | None


def read_run_outcome(folder: Path, objectives: Sequence[Objective]) -> RunOutcome | None:
    """Read the end of the run in ``folder``; None where it has not ended. Raises as :meth:`Objective.value`."""
    path = folder / SUMMARY
    if not path.exists():
        return None
    summary = json.loads(path.read_text())
    state = DIVERGED if summary.get("diverged") else PRUNED if summary.get("pruned") else COMPLETED
    values = tuple(objective.value(summary) for objective in objectives) if state == COMPLETED else ()
    record = read_record(folder)
    return RunOutcome(state, values, numbers(summary), record.run_id or None if record is not None else None)


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers and truth values of a summary."""
    return {name: value for name, value in summary.items() if isinstance(value, int | float)}

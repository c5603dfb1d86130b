"""What a study searches for, and what a finished run says about it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataecho.errors import require
from dataecho.report.summary import FILE_NAME as SUMMARY
from dataecho.tracking.record import read_record
from dataecho_search.study.results import COMPLETED, DIVERGED, PRUNED

MINIMIZE, MAXIMIZE = "minimize", "maximize"
#: The task's own metric at the end of a run, whatever it is called.
METRIC = "metric"
_MINIMIZED = ("_to_target", "_loss", "_time", "_examples")


@dataclass(frozen=True)
class Objective:
    """A number of a run's summary, or ``metric``; ``direction``: minimize or maximize."""

    name: str
    direction: str

    def value(self, summary: Mapping[str, Any]) -> float:
        """Infinitely bad where the run has none: a missed target costs infinitely much, never the budget."""
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
    """From one name or a list of them. ``directions``: as many, or None to go by the names; ``higher_is_better`` is
    about the task's metric."""
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
            direction in (MINIMIZE, MAXIMIZE),
            "hydra.sweeper.direction",
            direction,
            allowed=f"{MINIMIZE}, {MAXIMIZE}",
            cure=f"Say which for {name}: hydra.sweeper.direction={MAXIMIZE}, for instance.",
        )
        objectives.append(Objective(name, direction))
    return tuple(objectives)


@dataclass(frozen=True)
class Outcome:
    """What a run folder says: ``state`` as in :mod:`dataecho_search.study.results`; ``values`` for a completed one."""

    state: str
    values: tuple[float, ...]
    metrics: Mapping[str, float]
    mlflow_run_id: str | None


def read_outcome(folder: Path, objectives: Sequence[Objective]) -> Outcome | None:
    """None where the run has not ended. Raises :class:`SettingError` for an objective that the summary has not."""
    path = folder / SUMMARY
    if not path.exists():
        return None
    summary = json.loads(path.read_text())
    state = DIVERGED if summary.get("diverged") else PRUNED if summary.get("pruned") else COMPLETED
    values = tuple(objective.value(summary) for objective in objectives) if state == COMPLETED else ()
    record = read_record(folder)
    return Outcome(state, values, numbers(summary), record.run_id or None if record is not None else None)


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """The fields of a summary that are numbers or truth values."""
    return {name: value for name, value in summary.items() if isinstance(value, int | float)}

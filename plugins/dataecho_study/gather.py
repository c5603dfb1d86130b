"""Makes a study's results from its run folders alone, also while it is unfinished."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataecho.report.summary import FILE_NAME as SUMMARY
from dataecho.settings import flatten
from dataecho.training.spool import read_spool
from dataecho_search.study.results import border
from dataecho_study.gap import read_training_value
from dataecho_study.protocol import Plan, read_plan
from dataecho_study.results import EXAMPLES_PER_EPOCH, Cell, Repeat, Study


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A run that has ended. ``best``: the best held-out value of all its marks, infinitely bad without any."""

    folder: Path
    summary: Mapping[str, Any]
    best: float

    @property
    def fresh(self) -> float:
        return _cost(self.summary, "fresh_examples_to_target")

    @property
    def is_diverged(self) -> bool:
        return bool(self.summary.get("diverged"))


def gather(folder: Path) -> Study:
    """Return the results of the study in ``folder``. A repeat counts once it has all its trials. Raises
    :class:`DataError` where ``folder`` is no study's."""
    plan = read_plan(folder)
    trials = {
        (cell["key"], number): _read_trials(folder / cell["key"] / str(number), plan)
        for cell in plan.cells
        for number in range(plan.num_repeats)
    }
    cells = []
    for cell in plan.cells:
        repeats = [
            _repeat(trials[cell["key"], number], number, cell, plan, folder) for number in range(plan.num_repeats)
        ]
        cells.append(
            Cell(key=cell["key"], axes=cell["axes"], repeats=[repeat for repeat in repeats if repeat is not None])
        )
    summaries = [json.loads(path.read_text()) for path in sorted(folder.rglob(SUMMARY))]
    return Study(
        name=plan.name,
        task=plan.task,
        backend=plan.backend,
        scale=plan.scale,
        metric=plan.metric,
        goal=plan.goal,
        target=plan.target,
        is_tuned_once=plan.is_tuned_once,
        is_complete=all(len(cell.repeats) == plan.num_repeats for cell in cells),
        cells=cells,
        command=plan.command,
        versions=next((summary["versions"] for summary in summaries), {}),
        machine=plan.machine,
        seconds_total=sum(float(summary.get("wall_time") or 0.0) for summary in summaries),
        protocol={**plan.protocol, **_epoch(summaries)},
    )


def _epoch(summaries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The length of an epoch, where a run knows it."""
    found = next((summary["dataset"].get("num_examples") for summary in summaries), None)
    return {} if found is None else {EXAMPLES_PER_EPOCH: int(found)}


def _read_trials(folder: Path, plan: Plan) -> list[_Trial]:
    """The ended runs of a repeat in order of their points."""
    found = []
    for path in sorted(folder.glob(f"*/{SUMMARY}")):
        sign = 1 if plan.goal == "min" else -1
        values = [mark.metrics.get(plan.metric, math.nan) for mark in read_spool(path.parent)]
        best = sign * min((sign * value for value in values if math.isfinite(value)), default=math.inf)
        found.append(_Trial(folder=path.parent, summary=json.loads(path.read_text()), best=best))
    return found


def _repeat(trials: Sequence[_Trial], number: int, cell: Mapping[str, Any], plan: Plan, study: Path) -> Repeat | None:
    """The repeat by its winner, None while trials are missing. A search without a winner is given its best value's
    settings, at an infinite cost. A fresh seed that diverges has missed the target."""
    counted = [trial for trial in trials if not trial.is_diverged][: plan.num_trials]
    if len(counted) < plan.num_trials and not (plan.is_tuned_once and trials):
        return None
    sign = 1 if plan.goal == "min" else -1
    candidates = counted or list(trials)
    if plan.objective == "fresh":
        winner = min(candidates, key=lambda trial: (trial.fresh, sign * trial.best))
    else:
        winner = min(candidates, key=lambda trial: sign * trial.best)
    settings = flatten(winner.summary["config"])
    chosen = {key: settings.get(key) for key in cell["space"]}
    ratio, entered = winner.summary.get("upstream_downstream_ratio"), winner.summary.get("entered_examples_to_target")
    return Repeat(
        number=number,
        seed=int(winner.summary["seed"]),
        fresh=winner.fresh,
        seconds=_cost(winner.summary, "train_time_to_target"),
        best=winner.best,
        train=read_training_value(winner.folder, plan.metric),
        entered=None if entered is None else float(entered),
        ratio=None if ratio is None else float(ratio),
        settings=chosen,
        trials=len(counted),
        missed=sum(math.isinf(trial.fresh) for trial in counted),
        diverged=sum(trial.is_diverged for trial in trials),
        border=_border(cell["space"], chosen),
        run=winner.folder.relative_to(study).as_posix(),
    )


def _border(space: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    warnings = []
    for key, dimension in space.items():
        if side := border(dimension, settings.get(key)):
            low, high = dimension["attributes"]["low"], dimension["attributes"]["high"]
            warnings.append(f"{key}={settings[key]:.4g} lies at the {side} end of {low:g} to {high:g}")
    return warnings


def _cost(summary: Mapping[str, Any], name: str) -> float:
    value = summary.get(name)
    return math.inf if value is None else float(value)

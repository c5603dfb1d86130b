"""The report of one study: its trials, Optuna's plots, and a page in MLflow with a link to the best trial."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataecho.tracking.record import read_record
from dataecho.training.spool import FILE_NAME as SPOOL
from dataecho.training.spool import Spool, read_spool
from dataecho_search.report.mlflow_parents import finish_parent, is_complete, link, report_folder, run_id
from dataecho_search.report.tables import markdown, shown, trial_rows, write_csv
from dataecho_search.study.results import COUNTED, StudyResult, TrialResult

FILE_NAME = "study.md"
_STAMP = "report.json"
_SHARED = ("task", "backend", "echo", "factor")


def write_study_report(result: StudyResult, sweep: Path, tracking: Mapping[str, Any]) -> list[str]:
    """Write the report and send it to the study's run in MLflow, unless nothing has changed since the last time.
    Returns a sentence for each plot that could not be drawn."""
    folder = report_folder(sweep, result.name)
    folder.mkdir(parents=True, exist_ok=True)
    rows = trial_rows(result)
    stamp = hashlib.sha256(json.dumps([result.num_trials, rows], sort_keys=True, default=str).encode()).hexdigest()
    before = _read_stamp(folder)
    status = "finished" if result.finished else "interrupted"
    if before.get("stamp") == stamp:
        if not is_complete(folder):  # a continued sweep has reopened it, or the last sending was incomplete
            finish_parent(tracking, folder, artifacts=[], tags={}, position=_size(folder / SPOOL), status=status)
        return list(before["missing"])
    from dataecho_search.report.optuna_plots import draw_study  # importing pyplot takes a second

    pictures, missing = draw_study(result, folder)
    page = folder / FILE_NAME
    summary = _summary(result, sweep)
    page.write_text("\n".join([*summary, _table(result), *_not_drawn(missing)]), encoding="utf-8")
    files = [page, write_csv(folder / "trials.csv", rows), *pictures]
    finish_parent(
        tracking,
        folder,
        artifacts=files,
        tags={"mlflow.note.content": "\n".join(summary), **_tags(result, sweep)},
        position=_write_progress(result, folder),
        status=status,
    )
    (folder / _STAMP).write_text(json.dumps({"stamp": stamp, "missing": missing}))
    return missing


def _read_stamp(folder: Path) -> dict[str, Any]:
    try:
        stamp: dict[str, Any] = json.loads((folder / _STAMP).read_text())
        return stamp
    except (OSError, ValueError):
        return {}


def _summary(result: StudyResult, sweep: Path) -> list[str]:
    lines = [f"# Study {result.name}", "", f"{result.num_counted} of {result.num_trials} trials that count.", ""]
    best = result.front
    if not best:
        lines += ["No trial reached the target.", ""]
    for trial in best:
        values = ", ".join(
            f"{name.replace('_', ' ')} {shown(value)}"
            for name, value in zip(result.objectives, trial.values, strict=True)
        )
        params = ", ".join(f"{name}={shown(value)}" for name, value in trial.params.items())
        kind = "Best trial" if len(best) == 1 else "On the front"
        lines.append(f"- {kind}: {_trial(trial, sweep)}: {values}; {params}")
    return [*lines, *(f"- Warning: {warning}" for warning in result.border_warnings), ""]


def _table(result: StudyResult) -> str:
    shown_keys = ("trial", "state", *result.space, *(f"objective {name}" for name in result.objectives), "folder")
    return markdown([{key: row.get(key) for key in shown_keys} for row in trial_rows(result)])


def _not_drawn(missing: list[str]) -> list[str]:
    return ["Not drawn:", "", *(f"- {line}" for line in missing), ""] if missing else []


def _trial(trial: TrialResult, sweep: Path) -> str:
    return link(sweep / trial.folder, f"trial {trial.number}") if trial.folder else f"trial {trial.number}"


def _tags(result: StudyResult, sweep: Path) -> dict[str, str]:
    tags = {**_shared_tags(result, sweep), "counted_trials": str(result.num_counted)}
    if result.winner is not None:
        tags |= {
            "best_trial": str(result.winner.number),
            "best_run": result.winner.mlflow_run_id or run_id(sweep / result.winner.folder),
            "best_folder": result.winner.folder,
            **{f"best.{name}": shown(value) for name, value in result.winner.params.items()},
        }
    return tags


def _shared_tags(result: StudyResult, sweep: Path) -> dict[str, str]:
    """Return the tags that all trials share, so that the same filters find the study."""
    records = [read_record(sweep / trial.folder) for trial in result.trials if trial.folder]
    tags = next((record.tags for record in records if record is not None), {})
    return {name: tags[name] for name in _SHARED if name in tags}


def _write_progress(result: StudyResult, folder: Path) -> int:
    """Write the best value after every counted trial as a metric of the study's run, under the objective's name, so
    that a study sorts among trials by its winner's cost. Returns the length of the spool in bytes."""
    position = _size(folder / SPOOL)
    last = max((entry.step for entry in read_spool(folder)), default=0)
    spool = Spool(folder, position=position)
    best = [math.inf] * len(result.signs)
    counted = [trial for trial in result.trials if trial.state in COUNTED]
    for number, trial in enumerate(counted, start=1):
        signed = [s * value for s, value in zip(result.signs, trial.values, strict=False)]
        best = [min(pair) for pair in zip(best, signed or best, strict=True)]
        if number > last:
            metrics = {
                name: s * value
                for name, s, value in zip(result.objectives, result.signs, best, strict=True)
                if math.isfinite(value)
            }
            spool.append(number, {**metrics, "counted_trials": number}, time_ms=time.time_ns() // 1_000_000)
    spool.close()
    return _size(folder / SPOOL)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

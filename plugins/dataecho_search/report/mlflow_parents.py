"""The parent runs of trials in MLflow: one for each study, and one above them for a sweep of several studies.

Each has a folder with its own record, like a training run. So nothing is created twice or lost, trials know their
parent before MLflow does, and ``mode=sync resume=<sweep folder>`` later sends what is missing."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataecho.errors import quoted, setting
from dataecho.invocation import command
from dataecho.tracking.mlflow_tracker import MLflowTracker
from dataecho.tracking.record import FILE_NAME as RECORD
from dataecho.tracking.record import read_record
from dataecho.training.contracts import RunInfo

REPORT = "report"
_MLFLOW = f"{MLflowTracker.__module__}.{MLflowTracker.__qualname__}"
_cures: set[str] = set()  # of the failures that this process has reported
_is_out = False  # whether MLflow took less than all of the last run that this process knows of
_IN_AN_OUTAGE = {"start_timeout": 1.0, "finish_timeout": 5.0}  # seconds; the first run of a sweep has waited longer
_SET_HERE = ("_target_", "run_name", "tags", "parent_uuid", "has_children")


def report_folder(sweep: Path, study: str = "") -> Path:
    """Return the folder of a study's report, or of the whole sweep's where ``study`` is empty."""
    parts = study.split("/") if study else []
    return sweep.joinpath(REPORT, *(re.sub(r"[^\w.,=+-]+", "_", part).strip(".") or "_" for part in parts))


def open_sweep(tracking: Mapping[str, Any], sweep: Path, tags: Mapping[str, str]) -> str | None:
    """Open the parent run of the studies of ``sweep``, before theirs, where there are several. See
    :func:`open_parent`."""
    return _open(tracking, report_folder(sweep), name=sweep.name, tags=tags, parent_uuid=None)


def open_parent(tracking: Mapping[str, Any], sweep: Path, study: str, tags: Mapping[str, str]) -> str | None:
    """Open the parent run of the study's trials, the same one however often a sweep is continued. Returns the trials'
    ``tracking.parent_uuid``, or None where MLflow does not track.

    Also creates database and experiment, so that trials need not. Waits at most ``tracking.start_timeout`` seconds, and
    one second where the sweep's run has already waited in vain. A server that does not answer causes a warning; it gets
    the run from :func:`finish_parent` or later.
    """
    above = read_record(report_folder(sweep))
    if above is not None and not above.run_id:
        tracking = {**tracking, "start_timeout": min(tracking.get("start_timeout", 1.0), 1.0)}
    folder, uuid = report_folder(sweep, study), above.uuid if above else None
    return _open(tracking, folder, name=f"study {study}", tags=tags, parent_uuid=uuid)


def trial_overrides(
    parent_uuid: str | None, *, name: str, tags: Mapping[str, str], tracking: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the overrides that make a trial's run a child of its study's; none where MLflow does not track. During an
    outage a trial waits for seconds only, and no longer than ``tracking`` says: the rest is sent later."""
    if parent_uuid is None:
        return []
    waits = _IN_AN_OUTAGE if _is_out else {}
    listed = ",".join(f"{key}:{quoted(value)}" for key, value in tags.items())
    return [
        f"tracking.parent_uuid='{parent_uuid}'",  # of digits only, it would be a number
        f"tracking.run_name={quoted(name)}",
        f"++tracking.tags={{{listed}}}",  # besides those of the user
        *(f"tracking.{key}={min(seconds, (tracking or {}).get(key, seconds))}" for key, seconds in waits.items()),
    ]


def note_end(folder: Path) -> None:
    """Whether MLflow has all of the trial in ``folder`` says how long the next one waits for it."""
    global _is_out
    _is_out = not is_complete(folder)


def finish_parent(
    tracking: Mapping[str, Any],
    folder: Path,
    *,
    artifacts: Sequence[Path],
    tags: Mapping[str, str],
    position: int = 0,
    status: str = "finished",
) -> None:
    """Send a report to the run in ``folder``, if there is one, and end the run. ``position``: the length of the
    folder's spool in bytes, for the metrics."""
    if not (folder / RECORD).exists():
        return
    tracker = _tracker(tracking, parent_uuid=None)
    if tracker is None:
        return
    with _warn_once():
        tracker.start(RunInfo(folder=folder, name=folder.name, params={}, tags={}, dataset={}))
        tracker.covered(position)
        tracker.finish(status=status, artifacts=artifacts, tags=tags)


def unsent_warning(sweep: Path) -> str:
    """Return how to send the sweep later where MLflow did not get all of it, else an empty text."""
    send = command("mode=sync", setting("resume", sweep))
    if not _cures:
        return f"MLflow did not get all of this sweep. When it answers, send the rest: {send}" if _is_out else ""
    return f"MLflow did not get this sweep. {' '.join(sorted(_cures))} Then send it: {send}"


def is_complete(folder: Path) -> bool:
    """Whether MLflow has all of the run in ``folder``, with its end."""
    record = read_record(folder)
    return record is None or record.complete


def run_id(folder: Path) -> str:
    """Return MLflow's id of the run in ``folder``, empty if unknown."""
    record = read_record(folder)
    return record.run_id if record else ""


def link(folder: Path, text: str) -> str:
    """Markdown that leads to the run in ``folder`` from another page of the same MLflow; the text alone if unknown."""
    record = read_record(folder)
    if record is None or not record.run_id:
        return text
    return f"[{text}](#/experiments/{record.experiment_id}/runs/{record.run_id})"


def _open(
    tracking: Mapping[str, Any], folder: Path, *, name: str, tags: Mapping[str, str], parent_uuid: str | None
) -> str | None:
    global _is_out
    tracker = _tracker(tracking, parent_uuid=parent_uuid)
    if tracker is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with _warn_once():
        tracker.start(RunInfo(folder=folder, name=name, params={}, tags=tags, dataset={}))
        if tracker.cure:
            _cures.add(tracker.cure)
        tracker.leave()
    _is_out = not run_id(folder)
    return tracker.uuid or None


@contextlib.contextmanager
def _warn_once() -> Iterator[None]:
    """Warn of a failure that waiting does not cure for the first run of a sweep only."""
    logger = logging.getLogger("dataecho.tracking")
    level = logger.level
    if _cures:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _tracker(tracking: Mapping[str, Any], *, parent_uuid: str | None) -> MLflowTracker | None:
    if tracking.get("_target_") != _MLFLOW:
        return None
    options = {key: value for key, value in tracking.items() if key not in _SET_HERE}
    return MLflowTracker(**options, tags=tracking.get("tags"), parent_uuid=parent_uuid, has_children=True)

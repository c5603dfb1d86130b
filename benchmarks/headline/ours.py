"""The arms of dataecho: one run of ``train.py`` in this process."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.headline.setup import METRIC, PROJECT, ArmRun, Mark, Result, settings
from dataecho.modes import run_mode
from dataecho.training.spool import read_spool


def run(arm_run: ArmRun) -> Result:
    """Train as from the command line; what is told comes from the run folder."""
    with tempfile.TemporaryDirectory(prefix="headline-") as name:
        folder = Path(name)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            run_mode(settings(arm_run, folder), folder=None, project=PROJECT)
        summary = json.loads((folder / "run" / "summary.json").read_text())
        marks = [entry.metrics for entry in read_spool(folder / "run")]
    return Result(
        fresh=summary["fresh_examples_to_target"],
        wall_time=summary["wall_time_to_target"],
        train_time=summary["train_time_to_target"],
        input_wait=summary["input_wait_fraction"],
        marks=[_mark(metrics) for metrics in marks],
        step_time=1e3 * summary["downstream_time"],
        ratio=summary["upstream_downstream_ratio"],
        steady_ratio=_steady_ratio(marks),
        predicted=1e3 * summary["predicted_time_per_fresh_example"],
        measured=1e3 * summary["measured_time_per_fresh_example"],
        factor=summary["factor"],
    )


def _mark(metrics: Mapping[str, float]) -> Mark:
    return Mark(
        fresh=int(metrics["fresh_examples"]),
        wall_time=metrics["wall_time"],
        train_time=metrics["train_time"],
        accuracy=metrics[METRIC],
    )


def _steady_ratio(marks: list[Mapping[str, float]]) -> float | None:
    """From the windows between the later marks, all as long in fresh examples."""
    late = [metrics for metrics in marks[len(marks) // 2 :] if "upstream_time" in metrics]
    if not late:
        return None
    return sum(metrics["upstream_time"] for metrics in late) / sum(metrics["downstream_time"] for metrics in late)

"""A diagnosis as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dataecho.diagnose.advice import FACTORS, RULE, Diagnosis
from dataecho.diagnose.measurements import STEP, Measurements
from dataecho.diagnose.saving import Expectation
from dataecho.pipeline.stage import DEVICE, READ

FILE_NAME = "diagnose.json"
_SHOWN_FACTORS = (1, 2, 4, 8, 16)


def write_json(
    folder: Path,
    measured: Measurements,
    diagnosis: Diagnosis,
    fixes: Sequence[str],
    about: Mapping[str, Any],
    *,
    expected: Expectation | None = None,
) -> Path:
    """Write ``diagnose.json`` in ``folder`` atomically: times in seconds, infinite values as null. ``expected``: by the
    law of a task, if there is one."""
    found = {
        **about,
        "emulated_source": measured.emulated or None,
        "verdict": diagnosis.verdict,
        "bottleneck": diagnosis.bottleneck,
        "advice": asdict(diagnosis.advice) if diagnosis.advice else None,
        "rule": RULE,
        "cheap_fixes": list(fixes),
        "expected": asdict(expected) if expected else None,
        "factors": list(FACTORS),
        "echo_points": [asdict(point) for point in diagnosis.points],
        "measured": {**asdict(measured), "random_stages": sorted(measured.random_stages)},
    }
    path = folder / FILE_NAME
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(_finite(found), indent=2, allow_nan=False) + "\n")
    draft.replace(path)
    return path


def print_tables(
    measured: Measurements,
    diagnosis: Diagnosis,
    fixes: Sequence[str],
    *,
    files: Sequence[Path],
    console: Console,
    expected: Expectation | None = None,
) -> None:
    """Print stages, echo points, advice, and what a law expects."""
    console.print(_stages(measured, diagnosis.bottleneck))
    console.print(_three_batches(measured))
    console.print()
    console.print(_points(measured, diagnosis))
    if measured.emulated:
        console.print(Text(emulation(measured), style="bold yellow"))
    console.print(Text(diagnosis.verdict, style="bold"))
    for fix in fixes:
        console.print(f"Try first: {fix}")
    if diagnosis.advice is not None:
        console.print(f"Advised, with the same settings: {diagnosis.advice.setting}", soft_wrap=True)
        console.print(Text(RULE, style="dim"))
    if expected is not None:
        console.print(Text(expected.sentence, style="bold"))
    for path in files:
        console.print(f"{path}", soft_wrap=True)


def emulation(measured: Measurements) -> str:
    """A notice that the source is slowed down on purpose; empty if it is not."""
    limits = ", ".join(f"{name}={value:g}" for name, value in measured.emulated.items())
    return f"The slow source is emulated: pipeline.throttle with {limits}." if limits else ""


def milliseconds(seconds: float) -> str:
    """Milliseconds with three digits."""
    value = seconds * 1000
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def _stages(measured: Measurements, bottleneck: str) -> Table:
    table = _table(f"Milliseconds per batch of {measured.batch_size}, all workers at it")
    for name in ("", "alone", "both running", "done by"):
        table.add_column(name, justify="left" if name in ("", "done by") else "right")
    for stage in measured.rows:
        table.add_row(
            Text.assemble(stage, (" (random)", "dim")) if stage in measured.random_stages else stage,
            milliseconds(measured.stage_time(measured.alone, stage)),
            milliseconds(measured.stage_time(measured.both, stage)),
            _done_by(measured, stage),
            style="bold yellow" if stage == bottleneck else None,
        )
    return table


def _done_by(measured: Measurements, stage: str) -> str:
    if stage in (DEVICE, STEP):
        return "the training loop"
    if stage == READ and measured.reads_apart:
        return "threads of its own"
    return f"{measured.num_workers} {'processes' if measured.uses_processes else 'threads'}"


def _three_batches(measured: Measurements) -> str:
    return (
        f"Wall time of a batch: {milliseconds(measured.training_seconds)} ms in training "
        f"({measured.input_wait_fraction:.0%} of it waiting, {measured.busy_share:.0%} of {measured.num_cores} cores "
        f"busy); input alone {milliseconds(measured.real_seconds)}, without reading (cached) "
        f"{milliseconds(measured.cached_seconds)}; training alone (synthetic) "
        f"{milliseconds(measured.synthetic_seconds)}."
    )


def _points(measured: Measurements, diagnosis: Diagnosis) -> Table:
    table = _table("Echo points: R, and predicted milliseconds per fresh batch for factors of")
    table.add_column("after")
    for name in ("t_up", "t_down", "R", "R alone", "free to", *map(str, _SHOWN_FACTORS)):
        table.add_column(name, justify="right")
    advised = diagnosis.advice.after if diagnosis.advice is not None else None
    for point in diagnosis.points:
        table.add_row(
            point.name,
            milliseconds(point.upstream_time),
            milliseconds(point.downstream_time),
            f"{point.ratio:.2f}",
            f"{point.ratio_alone:.2f}",
            f"{point.factor:g}" if point.factor > 1 else "-",
            *(milliseconds(point.predicted[FACTORS.index(e)] * measured.batch_size) for e in _SHOWN_FACTORS),
            style="bold green" if point.name == advised else None,
        )
    return table


def _table(title: str) -> Table:
    """A table for a terminal of eighty columns."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

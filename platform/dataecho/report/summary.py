"""The result of a run: ``summary.json`` for programs, a short table for people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from dataecho.pipeline.accounting.memory import Memory
from dataecho.pipeline.batch import Skipped
from dataecho.report.console import new_console, styled
from dataecho.training.contracts import Task
from dataecho.training.skips import FILE_NAME as SKIPS
from dataecho.training.trainer import RunResult

FILE_NAME = "summary.json"
_NUM_NAMED = 10


def write_summary(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write ``summary.json`` in ``folder`` atomically. Values that are not finite become null; the cost null, of a
    target that was not reached, counts as infinite."""
    path = folder / FILE_NAME
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(_finite(summary), indent=2, allow_nan=False) + "\n")
    draft.replace(path)
    return path


def print_start(memory: Memory, emulated: Mapping[str, float], *, parts: str) -> None:
    """Print, before training, the division of batches, the predicted memory, and a notice of an emulated source."""
    console = new_console()
    if parts:
        console.print(parts)
    console.print(f"Memory of the input side, predicted: {memory}")
    if emulated:
        console.print(_emulation(emulated))


def print_summary(
    outcome: RunResult,
    *,
    task: Task,
    folder: Path,
    where: str,
    skipped: Sequence[Skipped],
    emulated: Mapping[str, float],
) -> None:
    """Print the run in a dozen lines, with its folder and dashboard."""
    metrics = outcome.metrics
    if outcome.diverged:
        rest = ": the training loss is no number any more, or far above where it began. "
        headline = styled("red", "Diverged", rest + "Try a lower optimizer.learning_rate.")
    elif outcome.reached_target:
        headline = styled("green", "Reached", f" {task.metric} {task.target:g}")
    elif outcome.pruned:
        rest = f" on the way to {task.metric} {task.target:g}: other trials were better by then."
        headline = styled("yellow", "Pruned", rest)
    else:
        rest = f" {task.metric} {task.target:g} within the budget: its cost is infinite."
        headline = styled("yellow", "Did not reach", rest)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for label, value, note in _rows(metrics, task, best=outcome.best):
        table.add_row(label, value, note)
    console = new_console()
    console.print(headline)
    console.print(table)
    console.print(_verdict(metrics))
    if emulated:
        console.print(_emulation(emulated))
    for line in _left_out(skipped, folder):
        console.print(line, soft_wrap=True)
    console.print(f"Run folder: {folder}", soft_wrap=True)
    if where:
        console.print(f"Dashboard:  {where}", soft_wrap=True)


def print_evaluation(metrics: Mapping[str, float], *, task: Task, checkpoint: Path, counts: Mapping[str, int]) -> None:
    """Print held-out metrics of a checkpoint."""
    console = new_console()
    console.print(f"{checkpoint}", soft_wrap=True)
    console.print(f"after {counts['fresh_examples']:,} fresh examples, {counts['steps']:,} steps:")
    for name, value in metrics.items():
        note = f"  (target {task.target:g})" if name == task.metric else ""
        console.print(f"  {name} {value:.4f}{note}")


def _rows(metrics: Mapping[str, float | None], task: Task, *, best: float | None) -> list[tuple[str, str, str]]:
    def count(name: str) -> str:
        value = metrics[name]
        return "never" if value is None else f"{int(value):,}"

    def seconds(name: str) -> str:
        value = metrics[name]
        return "never" if value is None else f"{value:.2f} s"

    rows = [
        ("fresh examples to target", count("fresh_examples_to_target"), "what the paper counts"),
        ("steps to target", count("steps_to_target"), ""),
        ("train time to target", seconds("train_time_to_target"), "without evaluation, logging and saving"),
        ("wall time to target", seconds("wall_time_to_target"), ""),
        (task.metric, f"{metrics[task.metric]:.4f}" if task.metric in metrics else "-", f"target {task.target:g}"),
        (f"best {task.metric}", "-" if best is None else f"{best:.4f}", "of all checkpoints"),
        ("total time", seconds("wall_time"), ""),
    ]
    if (wall := metrics["wall_time"]) is not None and (train := metrics["train_time"]):
        rows += [
            ("evaluation", f"{wall - train:.2f} s", "and logging and saving"),
            ("examples per second", f"{(metrics['delivered_examples'] or 0) / train:,.0f}", "repeats included"),
        ]
    if metrics["factor"] != 1:
        rows.append(("factor", f"{metrics['factor']:g}", "uses of an example or batch (the last, where it changed)"))
    if "upstream_downstream_ratio" in metrics:
        rows += [
            ("R", f"{metrics['upstream_downstream_ratio']:.2f}", "time of the input side / time of a step"),
            ("input wait", f"{metrics['input_wait_fraction']:.1%}", "of the training time"),
            (
                "time per fresh example",
                f"{1e3 * (metrics['measured_time_per_fresh_example'] or 0):.3f} ms",
                f"predicted {1e3 * (metrics['predicted_time_per_fresh_example'] or 0):.3f} ms",
            ),
            ("duplicates per batch", f"{metrics['duplicates_per_batch']:.2f}", ""),
        ]
    return rows


def _emulation(emulated: Mapping[str, float]) -> Text:
    limits = ", ".join(f"{name} {value:g}" for name, value in emulated.items())
    rest = f": the training source is slowed down on purpose ({limits}; pipeline.throttle)."
    return styled("yellow", "Emulated", rest)


def _left_out(skipped: Sequence[Skipped], folder: Path) -> list[str]:
    if not skipped:
        return []
    lines = [f"{len(skipped):,} broken examples were left out; all are named in {folder / SKIPS}:"]
    lines += [f"  {example.name}: {example.stage}: {example.reason}" for example in skipped[:_NUM_NAMED]]
    return lines + ([f"  and {len(skipped) - _NUM_NAMED:,} more"] if len(skipped) > _NUM_NAMED else [])


def _verdict(metrics: Mapping[str, float | None]) -> str:
    ratio = metrics.get("upstream_downstream_ratio")
    if ratio is None:
        return "Nothing was trained."
    if ratio <= 1:
        return (
            f"R = {ratio:.2f}: the input keeps up. "
            "Echoing saves fresh examples here, but no time: that takes R above 1."
        )
    return (
        f"R = {ratio:.2f}: training waits for its input. "
        f"Up to a factor of {math.floor(ratio * 10) / 10:g} the extra steps of echoing are free, "
        "where both sides have cores of their own."
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

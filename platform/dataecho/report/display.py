"""The progress of training: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as LiveProgress

from dataecho.report.console import new_console
from dataecho.training.contracts import Display, NoDisplay, Progress

_SECONDS_BETWEEN_LINES = 1.0
_SECONDS_BETWEEN_NOTICES = 5.0
_SECONDS_BETWEEN_UPDATES = 0.1


def new_display(kind: str, metric: str) -> Display:
    """``rich``, ``plain`` or ``none``; ``auto`` is rich on a terminal and plain elsewhere."""
    if kind == "none":
        return NoDisplay()
    if kind == "rich" or (kind == "auto" and sys.stdout.isatty()):
        return RichDisplay()
    return PlainDisplay()


class PlainDisplay(Display):
    """A line per evaluation, at most one per second, and always the last one. Before the first batch, a line every few
    seconds."""

    def __init__(self) -> None:
        self._metric, self._target = "", 0.0
        self._next_line = self._next_notice = 0.0
        self._held_back: str | None = None

    def start(self, *, metric: str, target: float, title: str) -> None:
        self._metric, self._target = metric, target
        print(f"Training to {metric} {target:g}, for at most {title}.", flush=True)
        self._next_notice = time.monotonic() + _SECONDS_BETWEEN_LINES

    def filling(self, *, num_read: int, num_needed: int) -> None:
        if time.monotonic() >= self._next_notice:
            self._next_notice = time.monotonic() + _SECONDS_BETWEEN_NOTICES
            print(f"Filling the shuffle buffer: {_filled(num_read, num_needed)}", flush=True)

    def update(self, progress: Progress) -> None:
        pass

    def mark(self, progress: Progress) -> None:
        line = (
            f"{progress.fresh_examples:>10,} fresh examples  loss {progress.train_loss:.4f}  "
            f"{self._metric} {progress.metric:.4f} (target {self._target:g})  "
            f"input wait {progress.input_wait_fraction:.0%}"
        )
        if time.monotonic() < self._next_line:
            self._held_back = line
            return
        self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        self._held_back = None
        print(line, flush=True)

    def stop(self) -> None:
        if self._held_back is not None:
            print(self._held_back, flush=True)


class RichDisplay(Display):
    """One live line: share of the budget, fresh examples, loss, metric against target, input wait."""

    def __init__(self) -> None:
        self._bar = LiveProgress(
            TextColumn("[bold]{task.fields[fresh]}[/] fresh"),
            BarColumn(bar_width=10),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[metric]}", markup=False),
            TextColumn("wait {task.fields[wait]}"),
            TimeElapsedColumn(),
            console=new_console(),
            refresh_per_second=5,
            transient=True,
        )
        self._metric, self._target = "", 0.0
        self._next_update = 0.0
        self._line: TaskID | None = None

    def start(self, *, metric: str, target: float, title: str) -> None:
        self._metric, self._target = metric, target
        self._line = self._bar.add_task("", total=1.0, fresh="0", loss="-", metric="-", wait="-")
        self._bar.console.print(f"Training to {metric} {target:g}, for at most {title}.")
        self._bar.start()

    def filling(self, *, num_read: int, num_needed: int) -> None:
        assert self._line is not None
        self._bar.update(self._line, metric=f"filling the shuffle buffer: {_filled(num_read, num_needed)}")

    def update(self, progress: Progress) -> None:
        if time.monotonic() >= self._next_update:
            self.mark(progress)

    def mark(self, progress: Progress) -> None:
        self._next_update = time.monotonic() + _SECONDS_BETWEEN_UPDATES
        assert self._line is not None
        self._bar.update(
            self._line,
            completed=progress.spent_fraction,
            fresh=f"{progress.fresh_examples:,}",
            loss=_number(progress.train_loss),
            metric=f"{self._metric} {_number(progress.metric)} (target {self._target:g})",
            wait=f"{progress.input_wait_fraction:.0%}",
        )

    def stop(self) -> None:
        self._bar.stop()


def _filled(num_read: int, num_needed: int) -> str:
    return f"{min(num_read, num_needed):,} of about {num_needed:,} examples read"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"

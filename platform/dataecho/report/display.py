"""The progress of training: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time

from rich.progress import Progress as LiveProgress
from rich.progress import TaskID, TextColumn

from dataecho.report.console import new_console
from dataecho.training.contracts import Display, NoDisplay, Progress

_SECONDS_BETWEEN_LINES = 1.0
_SECONDS_BETWEEN_NOTICES = 5.0
_SECONDS_BETWEEN_UPDATES = 0.1


def new_display(kind: str, *, num_examples: int | None) -> Display:
    """``rich``, ``plain`` or ``none``; ``auto`` is rich on a terminal and plain elsewhere. ``num_examples``: those of
    an epoch; None where that is not known."""
    if kind == "none":
        return NoDisplay()
    if kind == "rich" or (kind == "auto" and sys.stdout.isatty()):
        return RichDisplay(num_examples=num_examples)
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
    """One live line that fits the terminal; evaluations stay above it, at most one per second, and always the last
    one. ``num_examples``: those of an epoch; None where that is not known."""

    def __init__(self, *, num_examples: int | None = None) -> None:
        self._bar = LiveProgress(
            TextColumn("{task.description}", markup=False),
            console=new_console(),
            refresh_per_second=5,
            transient=True,
        )
        self._num_examples = num_examples
        self._metric, self._target = "", 0.0
        self._next_update = self._next_line = self._started = 0.0
        self._held_back: str | None = None
        self._first: Progress | None = None
        self._line: TaskID | None = None

    def start(self, *, metric: str, target: float, title: str) -> None:
        self._metric, self._target = metric, target
        self._line = self._bar.add_task("starting", total=None)
        self._bar.console.print(f"Training to {metric} {target:g}, for at most {title}.")
        self._bar.start()

    def filling(self, *, num_read: int, num_needed: int) -> None:
        self._show(f"filling the shuffle buffer: {_filled(num_read, num_needed)}")

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = progress, now
        if now >= self._next_update:
            self._next_update = now + _SECONDS_BETWEEN_UPDATES
            self._show(self._live(progress, elapsed=now - self._started))

    def mark(self, progress: Progress) -> None:
        line = (
            f"{progress.fresh_examples:>10,} fresh  loss {_number(progress.train_loss)}  "
            f"{self._metric} {_number(progress.metric)} (target {self._target:g})"
        )
        if time.monotonic() < self._next_line:
            self._held_back = line
            return
        self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        self._held_back = None
        self._bar.console.print(line)

    def stop(self) -> None:
        if self._held_back is not None:
            self._bar.console.print(self._held_back)
        self._bar.stop()

    def _show(self, text: str) -> None:
        assert self._line is not None
        self._bar.update(self._line, description=text)

    def _live(self, progress: Progress, *, elapsed: float) -> str:
        """Steps, fresh examples, budget, speed, wait and time; without the epoch, then without the speed, where the
        terminal is too narrow."""
        assert self._first is not None
        step, fresh = f"step {progress.steps:,}", f"{progress.fresh_examples:,} fresh"
        epoch = f" (epoch {progress.fresh_examples / self._num_examples:.1f})" if self._num_examples else ""
        spent, wait = f"{progress.spent_fraction:.0%}", f"wait {progress.input_wait_fraction:.0%}"
        trained = progress.fresh_examples - self._first.fresh_examples
        speed = f"{trained / elapsed:,.0f} ex/s" if elapsed else ""
        advance = progress.spent_fraction - self._first.spent_fraction
        left = _clock(elapsed * (1 - progress.spent_fraction) / advance) if advance > 0 else "-:--"
        times = f"{_clock(elapsed)} < {left}"
        shorter = [
            (step, fresh + epoch, spent, speed, wait, times),
            (step, fresh, spent, speed, wait, times),
            (step, fresh, spent, wait, times),
        ]
        lines = ["  ".join(part for part in parts if part) for parts in shorter]
        return next((line for line in lines if len(line) <= self._bar.console.width), lines[-1])


def _filled(num_read: int, num_needed: int) -> str:
    return f"{min(num_read, num_needed):,} of about {num_needed:,} examples read"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _clock(seconds: float) -> str:
    """``0:40``, ``1:00:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

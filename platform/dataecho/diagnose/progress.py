"""The progress of a diagnosis."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dataecho.diagnose.measure import ReportProgress

_SECONDS_BETWEEN_UPDATES = 0.1
_WORDS = {
    "first batch": "waiting for the first batch",
    "device": "copying to the device",
    "step": "the step alone",
    "input": "the input alone",
    "both": "both together",
    "cached": "records in memory",
    "scaling": "fewer or more workers",
}


@contextmanager
def showing(kind: str) -> Iterator[ReportProgress]:
    """``rich``: a live bar; ``plain``: a line per part; ``none``: nothing; ``auto``: rich on a terminal, plain
    elsewhere."""
    if kind == "none":
        yield lambda part, share: None
    elif kind == "rich" or (kind == "auto" and sys.stdout.isatty()):
        bar = Progress(
            TextColumn("{task.description:27}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=Console(),
            refresh_per_second=5,
            transient=True,
        )
        with bar:
            yield _Bar(bar).show
    else:
        yield _Lines().show


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar, self._line = bar, bar.add_task("", total=1.0)
        self._next_update = 0.0

    def show(self, part: str, share: float) -> None:
        """Update at most ten times a second, so as not to disturb the measurement."""
        if time.monotonic() >= self._next_update:
            self._next_update = time.monotonic() + _SECONDS_BETWEEN_UPDATES
            self._bar.update(self._line, completed=share, description=_WORDS[part])


class _Lines:
    def __init__(self) -> None:
        self._part = ""

    def show(self, part: str, share: float) -> None:
        """Print a line for each new part."""
        if part != self._part:
            self._part = part
            print(f"{share:>4.0%}  {_WORDS[part]}", flush=True)

"""Shows running studies: cells done, the best so far, and when each study and the whole will have ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from dataecho_search.report.display import SweepDisplay, line
from dataecho_search.report.tables import shown
from dataecho_search.study.results import StudyResult


@dataclass
class Whole:
    """All studies of a command. ``planned``: trials of each study, by its title; ``ended``: those that have ended, here
    or before; ``spent``: seconds and trials of this process, for the estimate."""

    planned: Mapping[str, int]
    ended: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    num_here: int = 0

    def remaining(self, title: str | None = None) -> float | None:
        """Seconds until the study, or everything, has ended; None before the first trial has."""
        if not self.num_here:
            return None
        titles = self.planned if title is None else [title]
        left = sum(max(0, self.planned[name] - self.ended.get(name, 0)) for name in titles)
        return left * self.seconds / self.num_here


@final
class StudyDisplay(SweepDisplay):
    """A line for every trial that ends, with the state of the study before it. ``title``: the study's."""

    def __init__(self, title: str, whole: Whole) -> None:
        self._title, self._whole = title, whole
        self._results: dict[str, StudyResult] = {}
        self._since = time.monotonic()

    def study(self, result: StudyResult) -> None:
        self._results[result.name] = result
        self._whole.ended[self._title] = self._whole.ended.get(self._title, 0) + result.num_counted

    def started(self, study_name: str, number: int) -> None:
        pass

    def finished(self, result: StudyResult, number: int) -> None:
        now = time.monotonic()
        before = self._results[result.name].num_counted
        self._whole.ended[self._title] += result.num_counted - before
        self._whole.seconds += now - self._since
        self._whole.num_here += 1
        self._since = now
        self._results[result.name] = result
        print(f"[{self._state()}] {line(result, number)}", flush=True)

    def ended(self, study_name: str) -> None:
        if self._whole.num_here:  # not for repeats that had ended before
            print(f"[{self._state()}] {self._best()}", flush=True)

    def _state(self) -> str:
        done = sum(result.finished for result in self._results.values())
        parts = [f"{self._title}: {done} of {len(self._results)} repeats of cells done"]
        left = self._whole.remaining(self._title)
        if left is not None:
            parts.append(f"{_minutes(left)} left")
            if len(self._whole.planned) > 1:
                parts.append(f"{_minutes(self._whole.remaining() or 0.0)} for all studies")
        return ", ".join(parts)

    def _best(self) -> str:
        """The mean of the winners so far, by cell."""
        costs: dict[str, list[float]] = {}
        for result in self._results.values():
            if result.finished and result.winner is not None:
                costs.setdefault(result.cell_name, []).append(result.winner.values[0])
        return "; ".join(f"{name} {shown(sum(some) / len(some))}" for name, some in costs.items()) or "no winner yet"


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

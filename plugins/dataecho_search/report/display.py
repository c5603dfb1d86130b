"""Shows a running sweep: one line for each ended trial, and on a terminal bars below them."""

from __future__ import annotations

import abc
import sys
from typing import final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from dataecho.report.console import new_console
from dataecho_search.report.tables import shown
from dataecho_search.study.results import COMPLETED, StudyResult, TrialResult


def new_display(kind: str) -> SweepDisplay:
    """Create the display ``rich``, ``plain`` or ``none``; ``auto`` is rich on a terminal and plain elsewhere."""
    if kind == "none":
        return NoSweepDisplay()
    if kind == "rich" or (kind == "auto" and sys.stdout.isatty()):
        return RichSweepDisplay()
    return PlainSweepDisplay()


class SweepDisplay(abc.ABC):
    """Shows a sweep. A context manager."""

    @abc.abstractmethod
    def study(self, result: StudyResult) -> None:
        """Show a study as it is before this process begins."""

    @abc.abstractmethod
    def started(self, study_name: str, number: int) -> None:
        """Show that a trial runs."""

    @abc.abstractmethod
    def finished(self, result: StudyResult, number: int) -> None:
        """Show that trial ``number`` has ended; ``result`` includes it."""

    @abc.abstractmethod
    def ended(self, study_name: str) -> None:
        """Show that a study has all its trials, or was given up."""

    def __enter__(self) -> SweepDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        return None


@final
class NoSweepDisplay(SweepDisplay):
    """Shows nothing."""

    def study(self, result: StudyResult) -> None:
        pass

    def started(self, study_name: str, number: int) -> None:
        pass

    def finished(self, result: StudyResult, number: int) -> None:
        pass

    def ended(self, study_name: str) -> None:
        pass


@final
class PlainSweepDisplay(SweepDisplay):
    """Prints lines only."""

    def study(self, result: StudyResult) -> None:
        if result.num_counted:
            print(f"{result.name}: continues after {result.num_counted} of {result.num_trials} trials", flush=True)

    def started(self, study_name: str, number: int) -> None:
        pass

    def finished(self, result: StudyResult, number: int) -> None:
        print(line(result, number), flush=True)

    def ended(self, study_name: str) -> None:
        pass


@final
class RichSweepDisplay(SweepDisplay):
    """Shows a bar for the sweep and one for each running study."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[best]}"),
            TimeElapsedColumn(),
            Remaining(),
            console=new_console(),
            refresh_per_second=4,
        )
        self._all = self._bars.add_task("all", total=0, best="")
        self._studies: dict[str, TaskID] = {}

    def __enter__(self) -> SweepDisplay:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def study(self, result: StudyResult) -> None:
        total = sum(task.total or 0 for task in self._bars.tasks if task.id == self._all) + result.num_trials
        self._bars.update(self._all, total=total)
        self._bars.advance(self._all, result.num_counted)
        self._studies[result.name] = self._bars.add_task(
            result.name, total=result.num_trials, completed=result.num_counted, best=_best(result), visible=False
        )

    def started(self, study_name: str, number: int) -> None:
        self._bars.update(self._studies[study_name], visible=True)

    def finished(self, result: StudyResult, number: int) -> None:
        self._bars.console.print(line(result, number))
        task = self._studies[result.name]
        before = next(bar.completed for bar in self._bars.tasks if bar.id == task)
        self._bars.update(task, completed=result.num_counted, best=_best(result))
        self._bars.advance(self._all, max(0, result.num_counted - before))

    def ended(self, study_name: str) -> None:
        self._bars.update(self._studies[study_name], visible=False)


def line(result: StudyResult, number: int) -> str:
    """Describe an ended trial and the progress of its study."""
    trial = result.trials[number]
    point = " ".join(f"{key.rpartition('.')[2]}={shown(value)}" for key, value in trial.params.items())
    outcome = values_text(result, trial) if trial.state == COMPLETED else trial.state
    best = f", {_best(result)}" if _best(result) else ""
    return f"{result.name} trial {number}: {outcome}  {point}  [{result.num_counted}/{result.num_trials}{best}]"


def values_text(result: StudyResult, trial: TrialResult) -> str:
    """Return each objective's name and value."""
    pairs = zip(result.objectives, trial.values, strict=True)
    return ", ".join(f"{name} {shown(value)}" for name, value in pairs)


def _best(result: StudyResult) -> str:
    return f"best {shown(result.winner.values[0])}" if result.winner is not None else ""

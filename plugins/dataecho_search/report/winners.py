"""Prints the winners of a sweep by cell, as in the paper: mean, smallest and largest of the repeats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from dataecho.report.console import new_console, styled
from dataecho_search.report.cells import summarize
from dataecho_search.report.display import values_text
from dataecho_search.report.tables import shown
from dataecho_search.study.results import StudyResult


def print_winners(results: Sequence[StudyResult], folder: Path) -> None:
    """Print the table of winners, warnings about winners at a border, and the sweep's folder."""
    console = new_console()
    cells = [cell for cell in summarize(results) if cell.costs]
    if cells:
        table = Table("cell", "mean", "min", "max", "ratio", title=f"Winners: {cells[0].objective}", box=None)
        for cell in cells:
            ratio = "" if cell.ratio is None or cell.is_baseline else f"{cell.ratio:.3f}"
            numbers = [shown(float(value)) for value in (cell.mean, min(cell.costs), max(cell.costs))]
            table.add_row(cell.name, *numbers, ratio)
        console.print(table)
    for result in results:
        if len(result.objectives) > 1:
            console.print(f"{result.name}: {len(result.front)} trials that no other beats in everything:")
            for trial in result.front:
                console.print(f"  trial {trial.number}: {values_text(result, trial)}  {trial.folder}")
        for warning in result.border_warnings:
            console.print(styled("yellow", "warning", f": {warning}"), soft_wrap=True)
        if not result.front and result.finished:
            console.print(
                styled("yellow", "warning", f": no trial of {result.name} reached its target: its cost is infinite."),
                soft_wrap=True,
            )
    console.print(f"Sweep folder: {folder}", soft_wrap=True)

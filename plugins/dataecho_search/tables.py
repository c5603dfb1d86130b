"""The winners of a sweep, cell by cell, as the paper shows them: mean, smallest and largest of the repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dataecho_search.progress import number_text
from dataecho_search.results import StudyResult


@dataclass(frozen=True)
class CellWinners:
    """The best values of a cell's repeats, infinite where no trial reached; ``ratio``: of the mean to that of the same
    cell without echo, None where there is none."""

    cell: str
    objective: str
    best: tuple[float, ...]
    ratio: float | None

    @property
    def mean(self) -> float:
        """Infinite, if one is."""
        return sum(self.best) / len(self.best)


def winners(results: Sequence[StudyResult]) -> list[CellWinners]:
    """One row per cell of the studies with one objective, in order."""
    by_cell: dict[str, list[StudyResult]] = {}
    for result in results:
        if len(result.objectives) == 1:
            by_cell.setdefault(result.cell_name, []).append(result)
    best = {cell: tuple(_best(result) for result in found) for cell, found in by_cell.items()}
    rows = []
    for cell, found in by_cell.items():
        baseline = _baseline(found[0], by_cell)
        mean = math.fsum(best[cell]) / len(best[cell])
        ratio = None
        if baseline is not None and baseline != cell:
            ratio = mean / (math.fsum(best[baseline]) / len(best[baseline]))
        rows.append(CellWinners(cell, found[0].objectives[0], best[cell], ratio))
    return rows


def print_winners(results: Sequence[StudyResult], folder: Path) -> None:
    """The table, warnings about winners at a border, and where everything is."""
    console = Console()
    rows = winners(results)
    if rows:
        table = Table("cell", "mean", "min", "max", "ratio", title=f"Winners: {rows[0].objective}", box=None)
        for row in rows:
            ratio = "" if row.ratio is None or math.isnan(row.ratio) else f"{row.ratio:.3f}"
            numbers = [number_text(float(value)) for value in (row.mean, min(row.best), max(row.best))]
            table.add_row(row.cell, *numbers, ratio)
        console.print(table)
    for result in results:
        if len(result.objectives) > 1:
            console.print(f"{result.name}: {len(result.front)} trials that no other beats in everything:")
            for trial in result.front:
                values = ", ".join(
                    f"{n} {number_text(v)}" for n, v in zip(result.objectives, trial.values, strict=True)
                )
                console.print(f"  trial {trial.number}: {values}  {trial.folder}", highlight=False)
        for warning in result.border_warnings:
            console.print(f"[yellow]warning[/]: {warning}", highlight=False, soft_wrap=True)
        if not result.front and result.finished:
            console.print(
                f"[yellow]warning[/]: no trial of {result.name} reached its target: its cost is infinite.",
                highlight=False,
                soft_wrap=True,
            )
    console.print(f"Sweep folder: {folder}", highlight=False, soft_wrap=True)


def _best(result: StudyResult) -> float:
    if result.winner is not None:
        return result.winner.values[0]
    return math.inf if result.directions[0] == "minimize" else -math.inf


def _baseline(result: StudyResult, cells: dict[str, list[StudyResult]]) -> str | None:
    """The cell that differs in the echo only, and has none."""
    echoed = {"echo", "factor", "max_factor", "echo.after", "echo.shuffle_buffer"}
    mine = {key: value for key, value in result.cell.items() if key not in echoed}
    for name, found in cells.items():
        cell = found[0].cell
        if cell.get("echo") == "none" and {k: v for k, v in cell.items() if k not in echoed} == mine:
            return name
    return None

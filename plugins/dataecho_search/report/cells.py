"""The paper's protocol (section 3): a cell's cost is its winner's, over independent repeats of the whole search."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataecho_search.study.results import StudyResult

NO_ECHO = "none"


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """A cell over its finished repeats. ``costs``: the winner's value in each repeat, infinite where no trial reached
    the target (minus infinity where the objective is maximised). ``baseline``: the mean cost of the cell that differs
    only by having no echo, None where there is none."""

    name: str
    cell: Mapping[str, str]
    studies: tuple[StudyResult, ...]
    costs: tuple[float, ...]
    num_unfinished: int
    baseline: float | None = None

    @property
    def objective(self) -> str:
        """The name of the objective that ``costs`` measure."""
        return self.studies[0].objectives[0] if self.studies else ""

    @property
    def is_baseline(self) -> bool:
        """Whether it has no echo."""
        return self.cell.get("echo") == NO_ECHO

    @property
    def mean(self) -> float:
        """Mean of ``costs``: infinite if one repeat missed, NaN without a finished repeat."""
        return sum(self.costs) / len(self.costs) if self.costs else math.nan

    @property
    def reached(self) -> tuple[float, ...]:
        """The finite ones of ``costs``."""
        return tuple(cost for cost in self.costs if math.isfinite(cost))

    @property
    def ratio(self) -> float | None:
        """``mean`` / ``baseline``, None where one of them is missing or infinite."""
        if self.baseline is None or not (math.isfinite(self.mean) and math.isfinite(self.baseline) and self.baseline):
            return None
        return self.mean / self.baseline

    @property
    def ideal(self) -> float | None:
        """1 / factor: the ratio if a repeat were worth as much as a fresh example. None where the factor is no number
        (auto, a recorded history) or there is nothing to compare with."""
        if self.baseline is None:
            return None
        try:
            return 1 / float(self.cell.get("factor") or 1)
        except ValueError:
            return None

    @property
    def arm(self) -> str:
        """Echo and factor, as the label of one bar."""
        echo, factor = self.cell.get("echo", ""), self.cell.get("factor", "")
        others = [value for key, value in self.cell.items() if key.startswith("echo.")]
        return " ".join(part for part in (echo, *others, "" if echo == NO_ECHO else factor) if part)

    @property
    def workload(self) -> tuple[tuple[str, str], ...]:
        """The settings that are no echo's, which two arms must share to be compared."""
        return tuple(sorted((key, value) for key, value in self.cell.items() if not _is_echo(key)))


def summarize(results: Sequence[StudyResult]) -> list[CellSummary]:
    """Summarize each cell, in order of its first study. Studies of several objectives have no winner and are left
    out."""
    by_name: dict[str, list[StudyResult]] = {}
    for result in results:
        if len(result.objectives) == 1:
            by_name.setdefault(result.cell_name, []).append(result)
    cells = [_summary(name, studies) for name, studies in by_name.items()]
    baselines = {cell.workload: cell.mean for cell in cells if cell.is_baseline}
    return [dataclasses.replace(cell, baseline=baselines.get(cell.workload)) for cell in cells]


def _summary(name: str, studies: Sequence[StudyResult]) -> CellSummary:
    done = sorted((study for study in studies if study.finished), key=lambda study: study.repeat)
    return CellSummary(
        name=name,
        cell={key: str(value) for key, value in studies[0].cell.items()},
        studies=tuple(done),
        costs=tuple(_cost(study) for study in done),
        num_unfinished=len(studies) - len(done),
    )


def _cost(study: StudyResult) -> float:
    if study.winner is not None:
        return study.winner.values[0]
    return study.signs[0] * math.inf


def _is_echo(key: str) -> bool:
    return key in ("echo", "factor", "max_factor") or key.startswith("echo.")

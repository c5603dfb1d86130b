"""The results of a sweep as tables, in CSV and in Markdown."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataecho_search.report.cells import CellSummary
from dataecho_search.study.results import COMPLETED, DIVERGED, FAILED, PRUNED, StudyResult, TrialResult

_STATES = (COMPLETED, PRUNED, DIVERGED, FAILED)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``rows`` to ``path`` in one step, with a column for every key in order of appearance; return ``path``."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    draft = path.with_suffix(".csv.new")
    with open(draft, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    draft.replace(path)
    return path


def trial_rows(result: StudyResult) -> list[dict[str, Any]]:
    """Return a row for each trial of a study: its point, its values, and the numbers of its summary."""
    return [_trial_row(result, trial) for trial in result.trials]


def _trial_row(result: StudyResult, trial: TrialResult) -> dict[str, Any]:
    values = trial.values or (math.nan,) * len(result.objectives)
    return {
        "study": result.name,
        **result.cell,
        "repeat": result.repeat,
        "trial": trial.number,
        "state": trial.state,
        **trial.params,
        **{f"objective {name}": value for name, value in zip(result.objectives, values, strict=True)},
        **trial.metrics,
        "seed": trial.seed,
        "seconds": trial.seconds,
        "folder": trial.folder,
        "mlflow_run_id": trial.mlflow_run_id,
    }


def study_row(result: StudyResult) -> dict[str, Any]:
    """Return the row of a study: the number of trials by state, and the winner."""
    winner = result.winner
    values = winner.values if winner else ()
    return {
        "study": result.name,
        **result.cell,
        "repeat": result.repeat,
        **{name: sum(trial.state == name for trial in result.trials) for name in _STATES},
        "counted": result.num_counted,
        "of": result.num_trials,
        "winner": winner.number if winner else None,
        **{f"best {name}": value for name, value in zip(result.objectives, values, strict=False)},
        **({f"winner's {name}": value for name, value in winner.params.items()} if winner else {}),
        "folder": winner.folder if winner else None,
    }


def cell_row(cell: CellSummary) -> dict[str, Any]:
    """Return the row of a cell by the paper's protocol."""
    return {
        "cell": cell.name,
        **cell.cell,
        "repeats": len(cell.costs),
        "reached": len(cell.reached),
        "mean": cell.mean,
        "min": min(cell.costs, default=math.nan),
        "max": max(cell.costs, default=math.nan),
        "ratio": cell.ratio,
        "ideal": cell.ideal,
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` as a table, without empty columns, with numbers rounded and aligned right."""
    columns = [
        key for key in dict.fromkeys(key for row in rows for key in row) if any(shown(row.get(key)) for row in rows)
    ]
    right = {key for key in columns if all(not isinstance(row.get(key), str) for row in rows)}
    lines = [
        _line(columns),
        _line("---:" if key in right else "---" for key in columns),
        *(_line(shown(row.get(key)) for key in columns) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """Return a value as text: four digits, thousands separated, ``never`` for an infinite number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isinf(value):
        return "never"
    if isinstance(value, float) and (abs(value) >= 1000 or value.is_integer()):
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

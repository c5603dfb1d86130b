"""The report of a sweep: tables and figures, in a folder and in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataecho_search.report.cells import CellSummary, summarize
from dataecho_search.report.mlflow_parents import finish_parent, report_folder
from dataecho_search.report.study_report import write_study_report
from dataecho_search.report.tables import cell_row, markdown, study_row, trial_rows, write_csv
from dataecho_search.study.results import StudyResult

logger = logging.getLogger("dataecho.search")

FILE_NAME = "report.md"
_STUDIES = "## Studies"


def write_report(
    results: Sequence[StudyResult], folder: Path, tracking: Mapping[str, Any], *, ended: bool = False
) -> Path:
    """Write the report of ``results``: of the studies finished so far or, with ``ended``, of all. ``folder``: the
    sweep's; ``tracking``: the configuration's node of that name. Returns the path of the report. Leaves unchanged parts
    alone."""
    from dataecho_search.report.cost_picture import (
        draw_costs,  # imports matplotlib, which is not needed before a study has ended
    )

    root = report_folder(folder)
    root.mkdir(parents=True, exist_ok=True)
    missing = {}
    for result in results:
        if result.finished or ended:
            missing[result.name] = write_study_report(result, folder, tracking)
    cells = summarize(results)
    files = [
        write_csv(root / "trials.csv", [row for result in results for row in trial_rows(result)]),
        write_csv(root / "studies.csv", [study_row(result) for result in results]),
        write_csv(root / "cells.csv", [cell_row(cell) for cell in cells]),
    ]
    why_no_picture = "several objectives have no single cost" if not cells else ""
    if cells:
        picture = root / "costs.png"
        why_no_picture = draw_costs(cells, picture, objective=results[0].objectives[0])
        files += [] if why_no_picture else [picture]
    path = root / FILE_NAME
    path.write_text(_text(results, cells, missing, why_no_picture, title=folder.name), encoding="utf-8")
    if ended:
        status = "finished" if all(result.finished for result in results) else "interrupted"
        note = {"mlflow.note.content": path.read_text(encoding="utf-8").partition(_STUDIES)[0]}
        finish_parent(tracking, root, artifacts=[path, *files], tags=note, status=status)
    return path


def _text(
    results: Sequence[StudyResult],
    cells: Sequence[CellSummary],
    missing: Mapping[str, Sequence[str]],
    why_no_picture: str,
    *,
    title: str,
) -> str:
    lines = [f"# Sweep {title}", ""]
    if cells:
        lines += [
            f"A cell's cost is its best trial's **{results[0].objectives[0].replace('_', ' ')}**; mean, min and max "
            "are over the repeats of the whole search. Ratio: mean / mean without echo; ideal: 1 / factor. `never`: in "
            "some repeat no trial reached the target; its cost is infinite, and so is the mean.",
            "",
            markdown([_without(cell_row(cell), cell.cell) for cell in cells]),
        ]
        lines += ["![costs](costs.png)", ""] if not why_no_picture else []
    unfinished = sum(not result.finished for result in results)
    if unfinished:
        lines += [f"{unfinished} of {len(results)} studies are not finished, and count in no cell.", ""]
    warnings = [warning for result in results for warning in result.border_warnings]
    if warnings:
        lines += ["## Winners at the border of their space", "", *(f"- {warning}" for warning in warnings), ""]
    lines += [_STUDIES, "", markdown([_without(study_row(result), result.cell) for result in results])]
    notes = [f"- {name}: {line}" for name, reasons in missing.items() for line in reasons]
    notes += [f"- costs: {why_no_picture}"] if why_no_picture else []
    if notes:
        lines += ["## What could not be drawn, and why", "", *notes, ""]
    return "\n".join(lines)


def _without(row: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``row`` without the settings that a cell's name contains."""
    return {key: value for key, value in row.items() if key not in settings}

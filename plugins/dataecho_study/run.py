"""Runs studies: their sweeps, one after the other, and their reports.

The folder of a study is that of its sweep, with ``plan.json`` and the report beside the cells' folders. A study
that is tuned once has its searches in the folder ``tuning``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataecho_search.report.display import NoSweepDisplay, SweepDisplay
from dataecho_search.report.mlflow_parents import finish_parent, report_folder
from dataecho_search.space.cells import Cell
from dataecho_search.sweep.settings import SweepSettings
from dataecho_search.sweep.start import HydraParts, run_cells
from dataecho_study.claims import read_claims
from dataecho_study.gather import gather
from dataecho_study.job import STUDIES, TUNING, Job, prepare, with_settings
from dataecho_study.law import fit_laws
from dataecho_study.progress import StudyDisplay, Whole
from dataecho_study.protocol import read_picture, read_plan
from dataecho_study.report import Subject, write_report
from dataecho_study.request import read_request
from dataecho_study.results import Study

#: The results of the study whose winners this one has run; the report checks their law.
WINNERS = "winners.json"


def run_studies(arguments: Sequence[str], hydra_context: Any, task_function: Any, config: Any) -> list[Study]:
    """Run or continue the studies of a command, one after the other, and return their results. All are checked before
    the first one runs. Raises as :func:`dataecho_search.sweep.start.run_sweep`."""
    hydra = HydraParts(context=hydra_context, task_function=task_function, config=config)
    request = read_request(arguments, hydra)
    jobs = [prepare(task, request, hydra) for task in request.tasks]
    whole = Whole({job.title: job.num_planned for job in jobs})
    failed, studies = False, []
    for job in jobs:
        try:
            studies.append(_run(job, hydra, whole))
        except SystemExit as end:
            if end.code != 1:  # a signal
                raise
            failed = True  # trials of this study; the others can go on
    if len(jobs) > 1:
        folder = Path(STUDIES, f"{jobs[0].plan.name}-{jobs[0].plan.scale}").absolute()
        print(f"Report of all tasks: {write_results([job.folder for job in jobs], folder)[0]}")
    if failed:
        raise SystemExit(1)
    return studies


def write_results(folders: Sequence[Path], into: Path) -> list[Path]:
    """Gather the studies in ``folders`` and write one report of all of them ``into`` a folder: the page, the pictures
    and the data. Returns their paths. Raises :class:`DataError` for a folder that is no study's."""
    subjects = []
    for folder in folders:
        plan, winners = read_plan(folder), folder / WINNERS
        subjects.append(
            Subject(
                study=gather(folder),
                claims=read_claims(plan.claims),
                picture=read_picture(plan.picture),
                laws=fit_laws(Study.from_json(winners.read_text())) if winners.exists() else None,
            )
        )
    return write_report(into, subjects)


def _run(job: Job, hydra: HydraParts, whole: Whole) -> Study:
    """Run one study; its report is written however the run ends."""
    job.plan.save(job.folder)
    if job.winners is not None:
        (job.folder / WINNERS).write_text(job.winners.to_json())
    try:
        cells = job.cells
        if job.tuning is not None:
            cells = _tune(job, job.tuning, hydra, whole)
        _sweep(job.settings, cells, job.folder, hydra, job.title, whole)
    finally:
        files = write_results([job.folder], job.folder)
        # The sweep has ended its parent run in MLflow, which a study's report belongs to.
        finish_parent(job.tracking, report_folder(job.folder), artifacts=files, tags={})
    print(f"Report of {job.title}: {files[0]}")
    return gather(job.folder)


def _sweep(
    settings: SweepSettings, cells: Sequence[Cell], folder: Path, hydra: HydraParts, title: str, whole: Whole
) -> None:
    def display(kind: str) -> SweepDisplay:
        return NoSweepDisplay() if kind == "none" else StudyDisplay(title, whole)

    run_cells(settings, cells, hydra, folder=folder, is_search=True, new_display=display)


def _tune(job: Job, settings: SweepSettings, hydra: HydraParts, whole: Whole) -> list[Cell]:
    """Search each cell once, and return the cells with the winners' settings."""
    folder = job.folder / TUNING
    plan = dataclasses.replace(job.plan, is_tuned_once=False, num_repeats=1, num_trials=settings.num_trials)
    plan.save(folder)
    _sweep(settings, job.cells, folder, hydra, job.title, whole)
    winners = {cell.key: cell.repeats[0].settings for cell in gather(folder).cells}
    return [with_settings(cell, winners[cell.name]) for cell in job.cells]

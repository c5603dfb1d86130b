"""``mode=diagnose``: finds the bottleneck and predicts the gain of echoing."""

from __future__ import annotations

import inspect
from pathlib import Path

from dataecho.compose import compose_workload, versions
from dataecho.compose.run_folder import new_folder
from dataecho.diagnose.advice import diagnose as advise
from dataecho.diagnose.fixes import cheap_fixes
from dataecho.diagnose.law import FILE_NAME as LAW_FILE
from dataecho.diagnose.law import Laws, read_laws
from dataecho.diagnose.measure import measure
from dataecho.diagnose.output import print_tables, write_json
from dataecho.diagnose.picture import draw
from dataecho.diagnose.progress import showing
from dataecho.diagnose.saving import expect
from dataecho.environment import git_revision
from dataecho.errors import DataError, SettingError, require
from dataecho.masking import masked_nested
from dataecho.report.console import new_console
from dataecho.settings import Node, read_settings
from dataecho.training.contracts import Task


def diagnose(config: Node, *, folder: Path | None, project: Path) -> None:
    settings = read_settings(config)
    require(
        settings.echo.after is None,
        "echo",
        settings.echo.name,
        allowed="none with mode=diagnose",
        cure="It measures without echo, and says where to echo and how often.",
    )
    workload = compose_workload(config)
    num_ranks = workload.backend.ranks.num_ranks
    require(
        num_ranks == 1,
        "mode",
        settings.mode,
        allowed=f"train, evaluate with {num_ranks} processes",
        cure="One process measures what each of several would: start it without torchrun or TF_CONFIG.",
    )
    laws = _laws(settings.law, workload.task)
    folder = new_folder(settings, folder)
    with showing(settings.display) as show:
        measured = measure(
            workload.train_source,
            workload.task.stages(),
            workload.backend,
            batch_size=workload.task.batch_size,
            shuffle_buffer=workload.task.shuffle_buffer,
            seed=settings.seed,
            settings=workload.executor,
            seconds=settings.diagnose.seconds,
            emulated=workload.emulated,
            show=show,
        )
    diagnosis = advise(measured)
    fixes = cheap_fixes(measured, diagnosis.bottleneck)
    expected = expect(measured, diagnosis, laws) if laws else None
    about = {
        "task": workload.task.name,
        "versions": versions(workload.backend),
        "git_revision": git_revision(project),
        "config": masked_nested(config),
    }
    files = [
        write_json(folder, measured, diagnosis, fixes, about, expected=expected),
        draw(folder, measured, diagnosis, title=f"{workload.task.name}, {settings.backend['name']}"),
    ]
    print_tables(measured, diagnosis, fixes, files=files, console=new_console(), expected=expected)


def _laws(path: str | None, task: Task) -> Laws | None:
    """The laws that the user names, or else those in the folder of the task's class, if there are any."""
    own = Path(inspect.getfile(type(task))).parent / LAW_FILE
    if path is None:
        return read_laws(own) if own.exists() else None
    try:
        return read_laws(Path(path))
    except DataError as error:
        raise SettingError("law", path, allowed=f"a {LAW_FILE} of a study", cure=str(error)) from None

"""Runs studies: reads their definitions, runs their sweeps, and writes their results.

The folder of a study is that of its sweep, with ``plan.json`` and the report beside the cells' folders. A study
that is tuned once has its searches in the folder ``tuning``.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dataecho.build import build
from dataecho.errors import DataError, SettingError, quoted, require
from dataecho.invocation import command
from dataecho.masking import masked_text
from dataecho.settings import Node
from dataecho.training.contracts import Task
from dataecho_search.report.display import NoSweepDisplay, SweepDisplay
from dataecho_search.report.mlflow_parents import finish_parent, report_folder
from dataecho_search.space.cells import Cell, read_cells
from dataecho_search.space.dimensions import describe
from dataecho_search.space.seeds import derive, digest
from dataecho_search.study.studies import RESULT_NEUTRAL
from dataecho_search.sweep.settings import SweepSettings, cores, read_sweep_settings
from dataecho_search.sweep.start import HydraParts, compose, run_cells
from dataecho_study.cells import StudyCell, expand
from dataecho_study.claims import read_claims
from dataecho_study.gather import gather
from dataecho_study.progress import StudyDisplay, Whole
from dataecho_study.protocol import Definition, Plan, read_definition, read_picture, read_plan
from dataecho_study.report import Subject, write_report
from dataecho_study.results import THROTTLE_RATIO, Study

_TUNING = "tuning"
_MINIATURE, _FULL_SIZE = "miniature", "_paper"
_PLACE = "runs/studies"
_PAST_BEST = "dataecho_study.protocol.PastBest"
#: A hook, to be completed; the run fills in its task and budget.
_TRAINING_VALUE = "{_target_:dataecho_study.gap.TrainingValue,of:marks,task:${task},budget:${budget.fresh}"
_NO_PRUNER = "optuna.pruners.NopPruner"
#: Axes of cells, which only a study's YAML sets.
_CELL_KEYS = ("echo", "factor", "task.batch_size", "task.shuffle_buffer", "echo.shuffle_buffer")
#: Options of a command that name places.
_PLACES = (
    "hydra.sweep.dir=",
    "hydra.sweeper.storage=",
    "hydra.sweeper.name=",
    "hydra/sweeper/pool",
    "hydra.sweeper.pool",
)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A command line, divided. ``study``: overrides of the study's definition; ``others``: of every run; ``hydra``:
    those of Hydra's own node; ``tasks``: by name."""

    study: list[str]
    others: list[str]
    hydra: list[str]
    tasks: list[str]

    @property
    def has_full_data(self) -> bool:
        """Whether other data than the miniature are chosen."""
        chosen = [text.partition("=") for text in self.others if text.startswith("task/")]
        return any(key.endswith("_data") and value != _MINIATURE for key, _, value in chosen)

    def gives(self, key: str) -> bool:
        return any(text.startswith(f"{key}=") for text in self.hydra)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One study of one task, ready to run. ``cells``: to search, or with the settings of winners; ``tuning``: what
    makes these settings first, where the study is tuned once."""

    folder: Path
    plan: Plan
    settings: SweepSettings
    cells: Sequence[Cell]
    tuning: SweepSettings | None
    tracking: Node

    @property
    def title(self) -> str:
        return f"{self.plan.name} {self.plan.task}"

    @property
    def num_planned(self) -> int:
        first = 0 if self.tuning is None else self.tuning.num_trials
        return len(self.cells) * (first + self.plan.num_repeats * self.plan.num_trials)


def run_studies(arguments: Sequence[str], hydra_context: Any, task_function: Any, config: Any) -> list[Study]:
    """Run or continue the studies of a command, one after the other, and return their results. All are checked before
    the first one runs. Raises as :func:`dataecho_search.sweep.start.run_sweep`."""
    hydra = HydraParts(context=hydra_context, task_function=task_function, config=config)
    request = _read_request(arguments, hydra)
    jobs = [_prepare(task, request, hydra) for task in request.tasks]
    whole = Whole({job.title: job.num_planned for job in jobs})
    studies = [_run(job, hydra, whole) for job in jobs]
    if len(jobs) > 1:
        folder = Path(_PLACE, f"{jobs[0].plan.name}-{jobs[0].plan.scale}").absolute()
        print(f"Report of all tasks: {write_results([job.folder for job in jobs], folder)[0]}")
    return studies


def write_results(folders: Sequence[Path], into: Path) -> list[Path]:
    """Gather the studies in ``folders`` and write one report of all of them ``into`` a folder: the page, the pictures
    and the data. Returns their paths. Raises :class:`DataError` for a folder that is no study's."""
    subjects = []
    for folder in folders:
        plan = read_plan(folder)
        subjects.append(
            Subject(study=gather(folder), claims=read_claims(plan.claims), picture=read_picture(plan.picture))
        )
    return write_report(into, subjects)


# ---- reading the command


def _read_request(arguments: Sequence[str], hydra: HydraParts) -> _Request:
    parser = OverridesParser.create(config_loader=hydra.context.config_loader)
    study, others, tasks = [], [], []
    for text in arguments:
        (override,) = parser.parse_overrides([text])
        key = override.get_key_element().lstrip("+~")
        if key.partition(".")[0].partition("/")[0] == "study":
            study.append(text)
        elif key == "task":
            tasks += (
                [str(value) for value in override.sweep_iterator()]
                if override.is_sweep_override()
                else [str(override.value())]
            )
        else:
            require(
                key not in _CELL_KEYS and not override.is_discrete_sweep(),
                key,
                override.get_value_string(),
                allowed="settings that all cells share, and intervals to search",
                cure="The cells of a study are in its YAML, conf/study: change study.cells, or take sweep=paper.",
            )
            others.append(text)
    given = [str(text) for text in hydra.config.hydra.overrides.hydra]
    return _Request(study=study, others=others, hydra=given, tasks=tasks or _all_tasks(hydra))


def _all_tasks(hydra: HydraParts) -> list[str]:
    """The tasks that have a study size."""
    loader = hydra.context.config_loader
    return [task for task in loader.get_group_options("task") if task in loader.get_group_options("study/size")]


def _prepare(task: str, request: _Request, hydra: HydraParts) -> _Job:
    overrides = [*request.study, f"task={task}"]
    if request.has_full_data and not any(text.startswith("study/size=") for text in request.study):
        overrides.append(f"study/size={task}{_FULL_SIZE}")
    loaded = hydra.context.config_loader.load_sweep_config(hydra.config, overrides)
    node = OmegaConf.to_container(loaded.study, resolve=True)
    assert isinstance(node, dict)
    definition = read_definition({str(key): value for key, value in node.items()}, task=task)
    settings = _sweep_settings(definition, request, loaded)
    folder = _folder(definition, task, request, settings)
    batch_size = int(definition.run_settings({}).get("task.batch_size", loaded.task.batch_size))
    study_cells = expand(definition.chosen_cells, definition.size.echoes, batch_size=batch_size)
    cells = [_searched(cell, definition, request, hydra, task) for cell in study_cells]
    composed = compose(cells[0], hydra)
    workload = build(composed["task"], Task, key="task")
    is_search = not definition.tuned_once and definition.winners_of is None
    plan = Plan(
        name=definition.name,
        task=task,
        backend=str(composed["backend"]["name"]),
        scale=definition.scale,
        metric=workload.metric,
        goal="max" if workload.higher_is_better else "min",
        target=workload.target,
        objective=definition.objective,
        is_tuned_once=not is_search,
        num_repeats=settings.num_repeats if is_search else definition.extent.num_seeds,
        num_trials=settings.num_trials if is_search else 1,
        cells=[
            {"key": cell.key, "axes": dict(cell.axes), "space": json.loads(describe(searched.space))}
            for cell, searched in zip(study_cells, cells, strict=True)
        ],
        claims=definition.claims,
        picture=definition.picture,
        protocol=_protocol(definition, settings, composed),
        command=_command(request, task),
        machine=_machine(),
    )
    tuning = None
    if definition.winners_of is not None:
        winners = _winners(study_cells, definition, task, request, settings)
        cells = [_with_settings(cell, winners[cell.name]) for cell in cells]
    if not is_search:
        if definition.tuned_once:
            seed = derive(settings.seed, _TUNING)  # not the seeds of the runs that count
            tuning = settings.model_copy(update={"num_repeats": 1, "seed": seed})
        settings = settings.model_copy(
            update={"num_trials": 1, "num_repeats": plan.num_repeats, "pruner": {"_target_": _NO_PRUNER}}
        )
    return _Job(
        folder=folder, plan=plan, settings=settings, cells=cells, tuning=tuning, tracking=composed.get("tracking", {})
    )


def _sweep_settings(definition: Definition, request: _Request, loaded: Any) -> SweepSettings:
    node = OmegaConf.to_container(loaded.hydra.sweeper, resolve=True)
    assert isinstance(node, dict)
    for name in ("num_repeats", "num_trials"):
        if not request.gives(f"hydra.sweeper.{name}"):
            node[name] = getattr(definition.extent, name)
    if definition.objective == "best":
        node["objective"] = "metric"
    elif definition.stop_past is not None and node["pruner"].get("_target_") == _NO_PRUNER:
        node["pruner"] = {"_target_": _PAST_BEST, "ratio": definition.stop_past}
    return read_sweep_settings({str(key): value for key, value in node.items()})


def _folder(definition: Definition, task: str, request: _Request, settings: SweepSettings) -> Path:
    """The folder of the study: the same for the same command, which thereby continues."""
    given = [text.partition("=")[2] for text in request.hydra if text.startswith("hydra.sweep.dir=")]
    if given or settings.name is not None:
        place = Path(given[-1]) if given else Path(_PLACE, str(settings.name))
        return (place if len(request.tasks) == 1 else place / task).absolute()
    return _usual_folder(definition.name, definition, task, request, settings)


def _usual_folder(name: str, definition: Definition, task: str, request: _Request, settings: SweepSettings) -> Path:
    parts = [name, task, definition.scale, *([f"seed{settings.seed}"] if settings.seed else [])]
    different = [text for text in request.others if not text.startswith(RESULT_NEUTRAL)]
    different += [text for text in request.study if not text.startswith(("study=", "study.scale=", "study.winners="))]
    different += [text for text in request.hydra if text.startswith(("hydra.sweeper.num_", "hydra/sweeper/sampler"))]
    if different:
        parts.append(digest(*sorted(different), length=6))
    return Path(_PLACE, "-".join(parts)).absolute()


def _winners(
    cells: Sequence[StudyCell], definition: Definition, task: str, request: _Request, settings: SweepSettings
) -> dict[str, Mapping[str, Any]]:
    """By cell, the settings of the best winner of the same cell in the study ``winners_of``, whatever its R. Raises
    :class:`SettingError` where that study lacks one."""
    name = str(definition.winners_of)
    folder = (
        Path(definition.winners) if definition.winners else _usual_folder(name, definition, task, request, settings)
    )
    try:
        found = gather(folder)
    except DataError as error:
        raise _no_winners(name, task, folder, str(error)) from None
    by_axes = {_without_ratio(cell.axes): cell for cell in found.cells}
    winners: dict[str, Mapping[str, Any]] = {}
    for cell in cells:
        other = by_axes.get(_without_ratio(cell.axes))
        if other is None or not other.repeats:
            raise _no_winners(name, task, folder, f"It has no winner of {cell.key}.")
        winners[cell.key] = min(other.repeats, key=lambda repeat: repeat.fresh).settings
    return winners


def _no_winners(name: str, task: str, folder: Path, problem: str) -> SettingError:
    first = command("-m", f"study={name}", f"task={task}")
    return SettingError(
        "study.winners",
        str(folder),
        allowed=f"the folder of a study {name} of task {task} with all cells",
        cure=f"Run it first with the same options, or name its folder: {first}. {problem}",
    )


def _without_ratio(axes: Mapping[str, float | str]) -> frozenset[tuple[str, float | str]]:
    return frozenset((axis, value) for axis, value in axes.items() if axis != THROTTLE_RATIO)


def _searched(cell: StudyCell, definition: Definition, request: _Request, hydra: HydraParts, task: str) -> Cell:
    """The cell with its whole search space."""
    settings, space = {**definition.run_settings(cell.axes), **cell.overrides}, definition.size.space
    space = {key: str(settings.pop(key, text)) for key, text in space.items()}
    arguments = [f"task={task}", *(f"{key}={_text(value)}" for key, value in settings.items())]
    if definition.training_examples is not None:
        arguments.append(f"hooks=[{_TRAINING_VALUE},num_examples:{definition.training_examples}}}]")
    arguments += request.others
    parser = OverridesParser.create(config_loader=hydra.context.config_loader)
    (searched,), _ = read_cells(space, arguments, parser)
    facts = {"task": task, **{axis: str(value) for axis, value in cell.axes.items()}}
    return dataclasses.replace(searched, name=cell.key, facts=facts)


def _text(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _protocol(definition: Definition, settings: SweepSettings, composed: Node) -> dict[str, Any]:
    return {
        "repeats": "fresh seeds of one tuning" if definition.tuned_once or definition.winners_of else "searches",
        "winners_of": definition.winners_of,
        "num_trials": settings.num_trials,
        "num_repeats": settings.num_repeats,
        "num_seeds": definition.extent.num_seeds,
        "sampler": str(settings.sampler["_target_"]).rpartition(".")[2],
        "seed": settings.seed,
        "space": dict(definition.size.space),
        "stop_past": definition.stop_past,
        "budget": composed["budget"]["fresh"],
        "eval_interval": composed["task"]["eval_interval"],
        "batch_size": composed["task"]["batch_size"],
        "shuffle_buffer": composed["task"]["shuffle_buffer"],
        "parallel_trials": settings.num_parallel_trials,
    }


def _command(request: _Request, task: str) -> str:
    """The command that makes the study again, without places."""
    hydra = [text for text in request.hydra if not text.startswith((*_PLACES, "hydra.mode="))]
    others = [text for text in request.others if not text.startswith("tracking")]
    return masked_text(command("-m", *request.study, f"task={task}", *others, *hydra))


def _machine() -> str:
    """Cores and processor."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return f"{cores()} cores, {model}"


# ---- running


def _run(job: _Job, hydra: HydraParts, whole: Whole) -> Study:
    """Run one study; its report is written however the run ends."""
    job.plan.save(job.folder)
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


def _tune(job: _Job, settings: SweepSettings, hydra: HydraParts, whole: Whole) -> list[Cell]:
    """Search each cell once, and return the cells with the winners' settings."""
    folder = job.folder / _TUNING
    plan = dataclasses.replace(job.plan, is_tuned_once=False, num_repeats=1, num_trials=settings.num_trials)
    plan.save(folder)
    _sweep(settings, job.cells, folder, hydra, job.title, whole)
    winners = {cell.key: cell.repeats[0].settings for cell in gather(folder).cells}
    return [_with_settings(cell, winners[cell.name]) for cell in job.cells]


def _with_settings(cell: Cell, settings: Mapping[str, Any]) -> Cell:
    """The cell with fixed ``settings`` in place of its space."""
    texts = tuple(f"{key}={_text(value)}" for key, value in settings.items())
    return dataclasses.replace(cell, overrides=(*cell.overrides, *texts), space={})

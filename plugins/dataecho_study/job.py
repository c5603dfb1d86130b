"""One study of one task, checked and ready to run: its plan, its cells and the settings of its sweeps."""

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
from dataecho.errors import DataError, SettingError, quoted
from dataecho.invocation import command
from dataecho.posix import usable_cores
from dataecho.settings import Node
from dataecho.training.contracts import Task
from dataecho_search.space.cells import Cell, read_cells
from dataecho_search.space.dimensions import describe
from dataecho_search.space.seeds import derive, digest
from dataecho_search.study.studies import RESULT_NEUTRAL
from dataecho_search.sweep.settings import SweepSettings, read_sweep_settings
from dataecho_search.sweep.start import HydraParts, compose
from dataecho_study.cells import StudyCell, expand
from dataecho_study.gather import gather
from dataecho_study.protocol import Definition, Plan, read_definition
from dataecho_study.request import Request
from dataecho_study.results import THROTTLE_RATIO, Study

#: The folder of studies, and that of the searches of a study that is tuned once.
STUDIES, TUNING = "runs/studies", "tuning"
_FULL_SIZE = "_paper"
_PAST_BEST = "dataecho_study.protocol.PastBest"
#: A hook, to be completed; the run fills in its task and budget.
_TRAINING_VALUE = "{_target_:dataecho_study.gap.TrainingValue,of:marks,task:${task},budget:${budget.fresh}"
_NO_PRUNER = "optuna.pruners.NopPruner"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One study of one task, ready to run. ``cells``: to search, or with the settings of winners; ``tuning``: what
    makes these settings first, where the study is tuned once; ``winners``: the study that they are of, where it is
    another."""

    folder: Path
    plan: Plan
    settings: SweepSettings
    cells: Sequence[Cell]
    tuning: SweepSettings | None
    winners: Study | None
    tracking: Node

    @property
    def title(self) -> str:
        return f"{self.plan.name} {self.plan.task}"

    @property
    def num_planned(self) -> int:
        first = 0 if self.tuning is None else self.tuning.num_trials
        return len(self.cells) * (first + self.plan.num_repeats * self.plan.num_trials)


def prepare(task: str, request: Request, hydra: HydraParts) -> Job:
    """Compose and check the study of ``task``. Raises :class:`SettingError`."""
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
    is_given = any(text.startswith("study.cells=") for text in request.study)  # comes before those of the scale
    blocks = definition.cells if is_given else definition.chosen_cells
    study_cells = expand(blocks, definition.size.echoes, batch_size=batch_size)
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
        command=request.command(task),
        machine=_machine(),
    )
    tuning = winners = None
    if definition.winners_of is not None:
        winners = _study_of_winners(definition, task, request, settings)
        cells = [
            with_settings(cell, _best_settings(winners, study_cell, definition, task))
            for cell, study_cell in zip(cells, study_cells, strict=True)
        ]
    if not is_search:
        if definition.tuned_once:
            seed = derive(settings.seed, TUNING)  # not the seeds of the runs that count
            tuning = settings.model_copy(update={"num_repeats": 1, "seed": seed})
        settings = settings.model_copy(
            update={"num_trials": 1, "num_repeats": plan.num_repeats, "pruner": {"_target_": _NO_PRUNER}}
        )
    return Job(
        folder=folder,
        plan=plan,
        settings=settings,
        cells=cells,
        tuning=tuning,
        winners=winners,
        tracking=composed.get("tracking", {}),
    )


def _sweep_settings(definition: Definition, request: Request, loaded: Any) -> SweepSettings:
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


def _folder(definition: Definition, task: str, request: Request, settings: SweepSettings) -> Path:
    """The folder of the study: the same for the same command, which thereby continues."""
    given = [text.partition("=")[2] for text in request.hydra if text.startswith("hydra.sweep.dir=")]
    if given or settings.name is not None:
        place = Path(given[-1]) if given else Path(STUDIES, str(settings.name))
        return (place if len(request.tasks) == 1 else place / task).absolute()
    return _usual_folder(definition.name, definition, task, request, settings)


def _usual_folder(name: str, definition: Definition, task: str, request: Request, settings: SweepSettings) -> Path:
    parts = [name, task, definition.scale, *([f"seed{settings.seed}"] if settings.seed else [])]
    different = [text for text in request.others if not text.startswith(RESULT_NEUTRAL)]
    different += [text for text in request.study if not text.startswith(("study=", "study.scale=", "study.winners="))]
    different += [text for text in request.hydra if text.startswith(("hydra.sweeper.num_", "hydra/sweeper/sampler"))]
    if different:
        parts.append(digest(*sorted(different), length=6))
    return Path(STUDIES, "-".join(parts)).absolute()


def _study_of_winners(definition: Definition, task: str, request: Request, settings: SweepSettings) -> Study:
    """The study whose winners are taken. Raises :class:`SettingError` where there is none."""
    given, name = definition.winners, str(definition.winners_of)
    folder = Path(given) if given else _usual_folder(name, definition, task, request, settings)
    try:
        return gather(folder)
    except DataError as error:
        raise _no_winners(definition, task, str(folder), str(error)) from None


def _best_settings(winners: Study, cell: StudyCell, definition: Definition, task: str) -> Mapping[str, Any]:
    """The settings of the cheapest winner of the same cell, whatever its R. Raises :class:`SettingError` where it has
    none."""
    same = [other for other in winners.cells if _without_ratio(other.axes) == _without_ratio(cell.axes)]
    repeats = [repeat for other in same for repeat in other.repeats]
    if not repeats:
        raise _no_winners(definition, task, definition.winners, f"It has no winner of {cell.key}.")
    return min(repeats, key=lambda repeat: repeat.fresh).settings


def _no_winners(definition: Definition, task: str, given: str | None, problem: str) -> SettingError:
    first = command("-m", f"study={definition.winners_of}", f"task={task}")
    return SettingError(
        "study.winners",
        given,
        allowed=f"the folder of a study {definition.winners_of} of task {task} with all cells",
        cure=f"Run it first with the same options, or name its folder: {first}. {problem}",
    )


def _without_ratio(axes: Mapping[str, float | str]) -> frozenset[tuple[str, float | str]]:
    return frozenset((axis, value) for axis, value in axes.items() if axis != THROTTLE_RATIO)


def _searched(cell: StudyCell, definition: Definition, request: Request, hydra: HydraParts, task: str) -> Cell:
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


def _machine() -> str:
    """Cores and processor."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return f"{usable_cores()} cores, {model}"


def with_settings(cell: Cell, settings: Mapping[str, Any]) -> Cell:
    """The cell with fixed ``settings`` in place of its space."""
    texts = tuple(f"{key}={_text(value)}" for key, value in settings.items())
    return dataclasses.replace(cell, overrides=(*cell.overrides, *texts), space={})

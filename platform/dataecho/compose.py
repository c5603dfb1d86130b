"""From a configuration to a run: builds every part, and makes every check that spans two groups."""

from __future__ import annotations

import atexit
import json
import platform as machine
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataecho.build import build
from dataecho.environment import git_revision
from dataecho.errors import require
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import BATCH, DEVICE, echo_point, stage_names
from dataecho.pipeline.throttle import Throttle
from dataecho.plan.factors import FactorHistory, read_history
from dataecho.plan.plan import OPEN_BLOCK
from dataecho.settings import Node, Settings, flatten, read_settings
from dataecho.sources.same_data import are_same_data
from dataecho.training.auto_factor import DEFAULT_MAX_FACTOR, AutoFactor, FactorControl, FixedFactor
from dataecho.training.budget import Budget
from dataecho.training.checkpoint import CheckpointStore, find_checkpoint, list_checkpoints, load_checkpoint
from dataecho.training.contracts import (
    AcceleratorSettings,
    Backend,
    BackendContext,
    Display,
    Hook,
    HookInfo,
    NoDisplay,
    NoTracker,
    OptimizerSettings,
    Pruner,
    RunInfo,
    Task,
    Tracker,
)
from dataecho.training.evaluation import evaluate
from dataecho.training.identity import identity_of, portable_state
from dataecho.training.ranks import Ranks
from dataecho.training.recipe import Recipe, TrainerSettings
from dataecho.training.schedule import Schedule
from dataecho.training.spool import FILE_NAME as SPOOL
from dataecho.training.target import Target
from dataecho.training.timing import TimeModel
from dataecho.training.trainer import Observers, Origin, Trainer
from dataecho.training.weights import read_weights

#: Groups and keys that do not change what is computed: a checkpoint may be continued under others.
_FREE = frozenset(
    {
        "mode",
        "run_dir",
        "resume",
        "checkpoint",
        "checkpoints",
        "runs",
        "display",
        "stop_at_target",
        "max_loss_ratio",
        "pruner",
        "pipeline",
        "tracking",
        "diagnose",
        "hooks",
        "preview",
        "pictures",
    }
)


@dataclass(frozen=True)
class Workload:
    """The parts that do not depend on a run folder; ``mode=evaluate`` and ``mode=train`` share them."""

    settings: Settings
    config: Node
    task: Task
    schedule: Schedule
    tracker: Tracker
    pruner: Pruner
    backend: Backend
    train_source: Source
    eval_source: Source
    executor: PipelineSettings
    emulated: dict[str, float]
    """Limits of the training source that were set on purpose: whoever reports results must say so."""

    @property
    def rank_batch_size(self) -> int:
        """Rows of a step that are this process's."""
        return self.task.batch_size // self.backend.ranks.num_ranks

    def evaluate(self) -> dict[str, float]:
        """Held-out metrics of the backend's weights."""
        return evaluate(self.task, self.eval_source, self.backend, self.executor)


@dataclass(frozen=True)
class TrainingRun:
    """Everything ``mode=train`` needs. Nothing is written to ``folder`` before :meth:`new_trainer`."""

    workload: Workload
    folder: Path
    info: RunInfo
    resume_from: dict[str, Any] | None
    hooks: Sequence[Callable[[HookInfo], None]]

    @cached_property
    def _own_folder(self) -> Path:
        """Of a rank that writes nothing for the others; removed when this process ends."""
        folder = tempfile.mkdtemp(prefix="dataecho-rank-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def new_trainer(self, display: Display) -> Trainer:
        """The trainer; raises :class:`SettingError` for what cannot be planned, continued or written."""
        workload, settings, task = self.workload, self.workload.settings, self.workload.task
        time_model = TimeModel(
            batch_size=workload.rank_batch_size,
            num_ranks=workload.backend.ranks.num_ranks,
            num_workers=workload.executor.num_workers,
            shares_cores=workload.backend.shares_cores,
            workers_are_upstream=_echoes_no_items(settings, task),
        )
        trainer = Trainer(
            self.folder if workload.backend.ranks.is_first else self._own_folder,
            new_feed=partial(_feed, workload),
            evaluate=workload.evaluate,
            backend=workload.backend,
            recipe=Recipe(
                budget=Budget(**settings.budget.model_dump()),
                schedule=workload.schedule,
                target=Target(task.metric, task.target, task.higher_is_better),
                settings=TrainerSettings(
                    learning_rate=settings.optimizer.learning_rate,
                    eval_interval=task.eval_interval,
                    checkpoint_interval=settings.checkpoints.interval,
                    keep_checkpoints=settings.checkpoints.keep,
                    disk_timeout=settings.checkpoints.disk_timeout,
                    stop_at_target=settings.stop_at_target,
                    max_loss_ratio=settings.max_loss_ratio,
                ),
            ),
            time_model=time_model,
            observers=Observers(
                tracker=workload.tracker,
                display=display if workload.backend.ranks.is_first else NoDisplay(),
                pruner=workload.pruner,
            ),
            origin=Origin(identity=_identity(workload), state=self.resume_from),
            factor_control=_factor_control(workload, time_model),
        )
        for hook, node in zip(self.hooks, settings.hooks, strict=True):
            trainer.add_hook(hook, every=node.every, of=node.of)
        return trainer


@dataclass(frozen=True)
class InputSide:
    """What ``mode=preview`` needs: no framework is imported for it. ``factors``: new, for one plan."""

    settings: Settings
    task: Task
    source: Source
    factors: FactorHistory


def compose_input(config: Node) -> InputSide:
    """Check the configuration and what echoes in it, then build task and data. Raises :class:`SettingError`."""
    settings = read_settings(config)
    task = build(settings.task, Task, key="task")
    _check_echo(settings, task)
    require(
        settings.factor != "auto",
        "factor",
        settings.factor,
        allowed=f"a number >= 1, or a recorded history (*.json) with mode={settings.mode}",
        cure="Only training measures what is free; look at factor=4, say.",
    )
    return InputSide(settings, task, task.train_source(), _factors(settings, task))


def compose_workload(config: Node) -> Workload:
    """Check the whole configuration, then build task, data and backend. Raises :class:`SettingError`."""
    settings = read_settings(config)
    task = build(settings.task, Task, key="task")
    schedule = build(settings.schedule, Schedule, key="schedule")
    tracker = build(settings.tracking, Tracker, key="tracking")
    pruner = build(settings.pruner, Pruner, key="pruner")
    _check(settings, task, schedule)
    if settings.mode == "train":  # to evaluate on what was trained on is a question of its own
        _check_held_out(task)
    backend = _backend(settings, task)
    _check_ranks(settings, task, backend.ranks)
    if not backend.ranks.is_first:
        tracker = NoTracker()
    executor = PipelineSettings(
        **settings.pipeline.model_dump(exclude={"max_memory", "throttle"}),
        hands_on=not backend.keeps_host_arrays,  # otherwise the loop would have to lay them differently
    )
    throttle = Throttle(**settings.pipeline.throttle.model_dump())
    return Workload(
        settings,
        config,
        task,
        schedule,
        tracker,
        pruner,
        backend,
        throttle.slow_down(task.train_source()),
        task.eval_source(),
        executor,
        throttle.limits,
    )


def compose_training(config: Node, *, folder: Path | None, project: Path) -> TrainingRun:
    """A run in ``folder``; None for ``run_dir``, or a new folder named by the time."""
    settings = read_settings(config)
    hooks = [build(dict(node.model_extra or {}), Hook, key=f"hooks.{n}") for n, node in enumerate(settings.hooks)]
    folder = _run_folder(settings, folder)
    resume_from = _resume_state(settings, folder)
    workload = compose_workload(config)
    if resume_from is not None:
        resume_from = portable_state(resume_from, held_out=workload.eval_source.digest)
    folder = Path(workload.backend.ranks.from_first(str(folder)))  # the others' clocks may say another time
    if settings.weights is not None and resume_from is None:
        given = read_weights(Path(settings.weights))
        workload.backend.load_weights(workload.task.starting_weights(given, workload.backend.weights()))
    return TrainingRun(workload, folder, _run_info(workload, folder, project), resume_from, hooks)


def versions(backend: Backend) -> dict[str, str]:
    """What was run with what."""
    return {
        "dataecho": version("dataecho"),
        "python": machine.python_version(),
        "numpy": version("numpy"),
        **backend.versions,
    }


def _check_echo(settings: Settings, task: Task) -> None:
    """Whether echo, factor and the task's stages fit together."""
    stages = task.stages()
    stage_names(stages)
    factor, echo = settings.factor, settings.echo
    if echo.after is None:
        require(
            factor is None or factor == 1,
            "factor",
            factor,
            allowed=f"nothing or 1 with echo={echo.name}",
            cure="Choose what to echo as well, for instance echo=before_augmentation.",
        )
    else:
        point = echo_point(echo.after, stages)
        require(
            factor is not None,
            "factor",
            factor,
            allowed="any real number >= 1, auto, or a recorded history (*.json)",
            cure=f"echo={echo.name} repeats the output of {point!r}; say how often, for instance factor=2.",
        )
        require(
            echo.shuffle_buffer == 0 or point in (BATCH, DEVICE),
            "echo.shuffle_buffer",
            echo.shuffle_buffer,
            allowed=f"0 with an echo after {point!r}",
            cure="Example echo goes through the task's one buffer, task.shuffle_buffer; only batch echo has its own.",
        )
    require(
        settings.max_factor is None or factor == "auto",
        "max_factor",
        settings.max_factor,
        allowed="nothing without factor=auto",
        cure="Leave it out: it is the limit of what is measured.",
    )
    _factors(settings, task)


def _check(settings: Settings, task: Task, schedule: Schedule) -> None:
    """What no group can see alone."""
    _check_echo(settings, task)
    require(
        task.batch_size <= task.eval_interval,
        "task.eval_interval",
        task.eval_interval,
        allowed=f"at least one batch, {task.batch_size} fresh examples",
        cure="Evaluate less often or use a smaller task.batch_size.",
    )
    budget = Budget(**settings.budget.model_dump())
    require(
        budget.fresh is None or budget.fresh >= task.batch_size,
        "budget.fresh",
        budget.fresh,
        allowed=f"at least one batch, {task.batch_size} fresh examples",
        cure="Raise budget.fresh or lower task.batch_size.",
    )
    require(
        budget.seconds is None or schedule.is_constant,
        "budget.seconds",
        budget.seconds,
        allowed="budget=fresh or budget=steps with a schedule that is not constant",
        cure="A schedule that depends on time could not be resumed exactly; use schedule=constant.",
    )


def _check_held_out(task: Task) -> None:
    require(
        not are_same_data(task.train_source(), task.eval_source()),
        "task.eval",
        "the data of task.train",
        allowed="data that are not trained on",
        cure="Name other files for task.eval: how well a model knows what it has seen says little of anything else.",
    )


def _check_ranks(settings: Settings, task: Task, ranks: Ranks) -> None:
    """What is divided has to be divisible."""
    devices = settings.accelerator.devices
    shares = f"{ranks.num_ranks} processes with {devices} devices each"
    cure = "Choose a multiple, or other numbers of processes and devices."
    for name, parts in (
        ("batch_size", ranks.num_ranks * devices),
        ("shuffle_buffer", ranks.num_ranks),
        ("eval_batch_size", devices),
    ):
        value = getattr(task, name)
        require(value % parts == 0, f"task.{name}", value, allowed=f"multiples of {parts}, for {shares}", cure=cure)


def _backend(settings: Settings, task: Task) -> Backend:
    name = settings.backend.get("name")
    require(
        name in task.models,
        "backend",
        name,
        allowed=f"{', '.join(sorted(task.models))}, the frameworks that task={task.name} has a model for",
        cure="Choose one of them, or add the model to the task.",
    )
    model = task.models[name]
    context = BackendContext(
        new_model=partial(build, model, object, key=f"task.models.{name}"),
        optimizer=OptimizerSettings(**settings.optimizer.model_dump()),
        accelerator=AcceleratorSettings(
            name=settings.accelerator.name,
            precision=str(settings.accelerator.precision),
            devices=settings.accelerator.devices,
        ),
        seed=settings.seed,
    )
    node = {key: value for key, value in settings.backend.items() if key != "name"}
    return build(node, Backend, context, key="backend")


def _feed(workload: Workload, state: dict[str, Any] | None) -> Feed:
    settings, task, ranks = workload.settings, workload.task, workload.backend.ranks
    feed = Feed(
        workload.train_source,
        task.stages(),
        batch_size=workload.rank_batch_size,
        shuffle_buffer=task.shuffle_buffer // ranks.num_ranks,
        seed=settings.seed,
        echo_after=settings.echo.after,
        factor=_factors(settings, task, rank=ranks.rank),
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
        batch_shuffle_buffer=settings.echo.shuffle_buffer,
        settings=workload.executor,
        state=state,
    )
    feed.memory.check(settings.pipeline.max_memory)
    return feed


def _factors(settings: Settings, task: Task, *, rank: int = 0) -> FactorHistory:
    """A new history for a feed, or the recorded one."""
    match settings.factor:
        case None:
            return FactorHistory.constant(1.0)
        case "auto":
            return FactorHistory.to_be_decided()
        case str(path):
            return read_history(Path(path), echoes_batches=_echoes_no_items(settings, task), rank=rank)
        case number:
            return FactorHistory.constant(number)


def _factor_control(workload: Workload, time_model: TimeModel) -> FactorControl:
    settings, task = workload.settings, workload.task
    if settings.factor != "auto":
        return FixedFactor()
    echoes_batches = _echoes_no_items(settings, task)
    buffer = settings.echo.shuffle_buffer if echoes_batches else task.shuffle_buffer / task.batch_size
    return AutoFactor(
        time_model,
        # Two buffers full of steps: by then seven of eight uses that were there before have left.
        settle_steps=round(2 * buffer) + workload.executor.look_ahead + OPEN_BLOCK,
        echoes_batches=echoes_batches,
        max_factor=DEFAULT_MAX_FACTOR if settings.max_factor is None else settings.max_factor,
    )


def _factor_name(settings: Settings) -> str:
    if isinstance(settings.factor, str):
        return "auto" if settings.factor == "auto" else "recorded"
    return f"{1.0 if settings.factor is None else settings.factor:g}"


def _echoes_no_items(settings: Settings, task: Task) -> bool:
    return settings.echo.after is None or echo_point(settings.echo.after, task.stages()) in (BATCH, DEVICE)


def _run_folder(settings: Settings, folder: Path | None) -> Path:
    """Where the run lives: given by a sweep, by ``resume=<path>``, by ``run_dir``, or named by the time."""
    if folder is not None:
        require(
            settings.run_dir is None,
            "run_dir",
            settings.run_dir,
            allowed="nothing in a sweep, where every run has its own folder",
            cure="Use hydra.sweep.dir=... for the folder of all of them.",
        )
    if settings.resume not in (None, "auto"):
        run = find_checkpoint(Path(settings.resume), best=False).parent.parent.absolute()
        require(
            settings.run_dir is None or Path(settings.run_dir).absolute() == run,
            "run_dir",
            settings.run_dir,
            allowed=f"nothing, or {run}, for that run is continued",
            cure="Leave run_dir out.",
        )
        return run
    if settings.run_dir is not None:
        folder = Path(settings.run_dir)
    require(
        settings.resume is None or folder is not None,
        "resume",
        "auto",
        allowed="auto together with run_dir=..., or the path of a run folder or checkpoint",
        cure="Name the run folder that is to be continued if it exists: run_dir=runs/mine resume=auto.",
    )
    if folder is None:
        folder = Path("runs") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S-%f")
    return folder.absolute()


def _resume_state(settings: Settings, folder: Path) -> dict[str, Any] | None:
    if settings.resume is None:
        require(
            not (folder / SPOOL).exists() and not list_checkpoints(folder / "checkpoints"),
            "run_dir",
            str(folder),
            allowed="a folder without a run in it",
            cure="Add resume=auto to continue that run, or choose another run_dir.",
        )
        return None
    if settings.resume == "auto":
        return CheckpointStore(folder).newest()
    return load_checkpoint(find_checkpoint(Path(settings.resume), best=False))


def _identity(workload: Workload) -> dict[str, Any]:
    fixed = {name: value for name, value in workload.config.items() if name not in _FREE}
    return identity_of({**flatten(fixed), **workload.backend.identity}, held_out=workload.eval_source.digest)


def _run_info(workload: Workload, folder: Path, project: Path) -> RunInfo:
    settings, task, source = workload.settings, workload.task, workload.train_source
    factor = _factor_name(settings)
    return RunInfo(
        folder=folder,
        name=f"{task.name} {settings.echo.name} {factor} seed {settings.seed}",
        params=flatten(workload.config),
        tags={
            "task": task.name,
            "backend": str(settings.backend["name"]),
            "echo": settings.echo.name,
            "factor": factor,
            "num_ranks": str(workload.backend.ranks.num_ranks),
            "git_revision": git_revision(project),
            **({"emulated_source": json.dumps(workload.emulated)} if workload.emulated else {}),
        },
        dataset={
            "name": task.name,
            "digest": source.digest,
            "num_examples": source.num_examples(0) if source.num_shards == 1 else None,
        },
    )

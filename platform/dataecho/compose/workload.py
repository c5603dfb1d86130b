"""Task, data and backend, built and checked: the parts of a run that do not depend on its folder."""

from __future__ import annotations

import platform as machine
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataecho.build import build
from dataecho.compose.checks import check_held_out, check_ranks, check_settings
from dataecho.compose.throttle import fixed_throttle
from dataecho.errors import require
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.throttle import Throttle
from dataecho.settings import Node, Settings, read_settings
from dataecho.training.contracts import (
    Backend,
    BackendContext,
    NoTracker,
    Pruner,
    Task,
    Tracker,
)
from dataecho.training.evaluation import evaluate
from dataecho.training.schedule import Schedule


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
    throttle: Throttle
    """Slows the training source down on purpose."""

    @property
    def emulated(self) -> dict[str, float]:
        """The limits of a training source that is slowed down on purpose; every result names them."""
        return self.throttle.limits

    @property
    def rank_batch_size(self) -> int:
        """This rank's rows of a step."""
        return self.task.batch_size // self.backend.ranks.num_ranks

    def evaluate(self) -> dict[str, float]:
        """Held-out metrics of the backend's weights."""
        return evaluate(self.task, self.eval_source, self.backend, self.executor)


def compose_workload(config: Node, *, folder: Path | None = None) -> Workload:
    """Check the whole configuration, then build task, data and backend. ``folder``: of a run that is continued. Raises
    :class:`SettingError`."""
    settings = read_settings(config)
    task = build(settings.task, Task, key="task")
    schedule = build(settings.schedule, Schedule, key="schedule")
    tracker = build(settings.tracking, Tracker, key="tracking")
    pruner = build(settings.pruner, Pruner, key="pruner")
    check_settings(settings, task, schedule)
    if settings.mode == "train":  # to evaluate on what was trained on is a question of its own
        check_held_out(task)
    backend = _new_backend(settings, task)
    check_ranks(settings, task, backend.ranks)
    if not backend.ranks.is_first:
        tracker = NoTracker()
    source = task.train_source()
    # A backend that keeps host arrays reads them fastest where the pool has aligned them.
    executor = replace(settings.pipeline, hands_on=not backend.keeps_host_arrays)
    throttle = settings.pipeline.throttle
    if settings.mode in ("train", "diagnose"):
        throttle = fixed_throttle(throttle, task, source, backend, executor, folder=folder)
    return Workload(
        settings,
        config,
        task,
        schedule,
        tracker,
        pruner,
        backend,
        throttle.slow_down(source),
        task.eval_source(),
        executor,
        throttle,
    )


def versions(backend: Backend) -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {
        "dataecho": version("dataecho"),
        "python": machine.python_version(),
        "numpy": version("numpy"),
        **backend.versions,
    }


def _new_backend(settings: Settings, task: Task) -> Backend:
    name: Any = settings.backend.get("name")
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
        optimizer=settings.optimizer,
        accelerator=settings.accelerator,
        seed=settings.seed,
    )
    node = {key: value for key, value in settings.backend.items() if key != "name"}
    return build(node, Backend, context, key="backend")

"""A training run: a workload, its folder and the checkpoint that it continues from."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from dataecho.build import build
from dataecho.compose.factor import echo_of, factor_control, factor_name, new_factors
from dataecho.compose.run_folder import resume_state, run_folder
from dataecho.compose.throttle import record_throttle
from dataecho.compose.workload import Workload, compose_workload
from dataecho.declare import declared_settings
from dataecho.environment import git_revision
from dataecho.pipeline.feed import Feed
from dataecho.settings import HookSchedule, Node, Settings, flatten, read_group, read_settings
from dataecho.training.budget import Budget
from dataecho.training.contracts import Display, Hook, HookInfo, NoDisplay, RunInfo
from dataecho.training.identity import identity_of, portable_state, weights_of, with_longer_budget
from dataecho.training.recipe import Recipe, TrainerSettings
from dataecho.training.target import Target
from dataecho.training.timing import TimeModel
from dataecho.training.trainer import Observers, Origin, Trainer
from dataecho.training.weights import read_weights, weights_digest

#: Groups and keys that may change when a run is resumed: nothing that is computed depends on them.
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
class TrainingRun:
    """Everything ``mode=train`` needs. Nothing is written to ``folder`` before :meth:`new_trainer`."""

    workload: Workload
    folder: Path
    info: RunInfo
    resume_from: dict[str, Any] | None
    weights: str | None
    """The digest of the weights that the run started from."""
    notice: str
    """A sentence on a longer budget that bends the schedule; empty without."""
    hooks: Sequence[tuple[Callable[[HookInfo], None], HookSchedule]]

    @cached_property
    def _temporary_folder(self) -> Path:
        """A temporary folder for a rank other than 0, removed when this process ends."""
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
            workers_are_upstream=not echo_of(settings, task).echoes_items,
        )
        trainer = Trainer(
            self.folder if workload.backend.ranks.is_first else self._temporary_folder,
            new_feed=partial(_feed, workload),
            evaluate=workload.evaluate,
            backend=workload.backend,
            recipe=Recipe(
                budget=settings.budget,
                schedule=workload.schedule,
                target=Target(task.metric, task.target, task.higher_is_better),
                settings=TrainerSettings(
                    learning_rate=settings.optimizer.learning_rate,
                    eval_interval=task.eval_interval,
                    checkpoints=settings.checkpoints,
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
            origin=Origin(identity=_identity(workload, self.weights), state=self.resume_from),
            factor_control=factor_control(settings, task, time_model, look_ahead=workload.executor.look_ahead),
        )
        if workload.backend.ranks.is_first:
            record_throttle(workload.throttle, self.folder, batch_size=workload.rank_batch_size)
        for hook, schedule in self.hooks:
            trainer.add_hook(hook, every=schedule.every, of=schedule.of)
        return trainer


def compose_training(config: Node, *, folder: Path | None, project: Path) -> TrainingRun:
    """Compose a run in ``folder``; None for ``run_dir``, or a new folder named by the time."""
    settings = read_settings(config)
    hooks = [_hook(node, key=f"hooks.{number}") for number, node in enumerate(settings.hooks)]
    folder = run_folder(settings, folder)
    resume_from = resume_state(settings, folder)
    weights = _weights_digest(settings, resume_from)
    workload = compose_workload(config, folder=folder if settings.resume is not None else None)
    notice = ""
    if resume_from is not None:
        resume_from = portable_state(resume_from, held_out=workload.eval_source.digest, weights=weights)
        notice = _bend(workload, resume_from)
        resume_from = with_longer_budget(resume_from, flatten(config))
    folder = Path(workload.backend.ranks.from_first(str(folder)))  # the others' clocks may say another time
    if settings.weights is not None and resume_from is None:
        given = read_weights(Path(settings.weights))
        workload.backend.load_weights(workload.task.starting_weights(given, workload.backend.weights()))
    return TrainingRun(workload, folder, _run_info(workload, folder, project), resume_from, weights, notice, hooks)


def _hook(node: Node, *, key: str) -> tuple[Hook, HookSchedule]:
    names = {declared.name: declared.default for declared in declared_settings(HookSchedule)}
    schedule = read_group(HookSchedule, {**names, **{k: v for k, v in node.items() if k in names}}, key=key)
    return build({k: v for k, v in node.items() if k not in names}, Hook, key=key), schedule


def _feed(workload: Workload, state: dict[str, Any] | None) -> Feed:
    settings, task, ranks = workload.settings, workload.task, workload.backend.ranks
    feed = Feed(
        workload.train_source,
        task.stages(),
        batch_size=workload.rank_batch_size,
        shuffle_buffer=task.shuffle_buffer // ranks.num_ranks,
        seed=settings.seed,
        echo_after=settings.echo.after,
        factor=new_factors(settings, task, rank=ranks.rank),
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
        batch_shuffle_buffer=settings.echo.shuffle_buffer,
        settings=workload.executor,
        state=state,
    )
    feed.memory.check(settings.pipeline.max_memory)
    return feed


def _bend(workload: Workload, state: dict[str, Any]) -> str:
    """A sentence where the budget differs from that of the checkpoint and the learning rate depends on it."""
    was = state["identity"]
    units = {unit: was.get(f"budget.{unit}") for unit in ("fresh", "steps", "seconds")}
    budget = workload.settings.budget
    if workload.schedule.is_constant or budget == Budget(**units):
        return ""
    return f"The schedule is stretched over {budget}, from {Budget(**units)}: the learning rate jumps here."


def _weights_digest(settings: Settings, resume_from: dict[str, Any] | None) -> str | None:
    """The digest of the weights that the run starts from. A run that is continued no longer needs them: where they are
    gone, those of the checkpoint are meant."""
    if settings.weights is None:
        return None
    path = Path(settings.weights)
    return weights_of(resume_from) if resume_from is not None and not path.exists() else weights_digest(path)


def _identity(workload: Workload, weights: str | None) -> dict[str, Any]:
    fixed = {name: value for name, value in workload.config.items() if name not in _FREE}
    settings = {**flatten(fixed), **workload.backend.identity}
    return identity_of(settings, held_out=workload.eval_source.digest, weights=weights)


def _run_info(workload: Workload, folder: Path, project: Path) -> RunInfo:
    settings, task, source = workload.settings, workload.task, workload.train_source
    factor = factor_name(settings)
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

"""The echo factor of a run: given, recorded, or decided while it trains."""

from __future__ import annotations

from pathlib import Path

from dataecho.pipeline.echo_point import EchoPoint
from dataecho.plan.factors import FactorHistory, read_history
from dataecho.plan.plan import OPEN_BLOCK
from dataecho.settings import Settings
from dataecho.training.auto_factor import DEFAULT_MAX_FACTOR, AutoFactor, FactorControl, FixedFactor
from dataecho.training.contracts import Task
from dataecho.training.timing import TimeModel


def new_factors(settings: Settings, task: Task, *, rank: int = 0) -> FactorHistory:
    """The factors of one plan: given, recorded by an earlier run, or still to be decided."""
    match settings.factor:
        case None:
            return FactorHistory.constant(1.0)
        case "auto":
            return FactorHistory.to_be_decided()
        case str(path):
            return read_history(Path(path), echoes_batches=echo_of(settings, task).echoes_batches, rank=rank)
        case number:
            return FactorHistory.constant(number)


def factor_control(settings: Settings, task: Task, time_model: TimeModel, *, look_ahead: int) -> FactorControl:
    """The control that decides an automatic factor while the run trains, or keeps a given one."""
    if settings.factor != "auto":
        return FixedFactor()
    echoes_batches = echo_of(settings, task).echoes_batches
    buffer = settings.echo.shuffle_buffer if echoes_batches else task.shuffle_buffer / task.batch_size
    return AutoFactor(
        time_model,
        # Two buffers full of steps: by then seven of eight uses that were there before have left.
        settle_steps=round(2 * buffer) + look_ahead + OPEN_BLOCK,
        echoes_batches=echoes_batches,
        max_factor=DEFAULT_MAX_FACTOR if settings.max_factor is None else settings.max_factor,
    )


def factor_name(settings: Settings) -> str:
    """The factor as runs and tags show it."""
    if isinstance(settings.factor, str):
        return "auto" if settings.factor == "auto" else "recorded"
    return f"{1.0 if settings.factor is None else settings.factor:g}"


def echo_of(settings: Settings, task: Task) -> EchoPoint:
    """The echo point of a run."""
    return EchoPoint.resolve(settings.echo.after, task.stages())

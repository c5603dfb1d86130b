"""The input side of a run: task and data, without a framework."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho.build import build
from dataecho.compose.checks import check_echo
from dataecho.compose.factor import new_factors
from dataecho.errors import require
from dataecho.pipeline.source import Source
from dataecho.plan.factors import FactorHistory
from dataecho.settings import Node, Settings, read_settings
from dataecho.training.contracts import Task


@dataclass(frozen=True)
class InputSide:
    """The parts of ``mode=preview``, which imports no framework. ``factors`` serve one plan."""

    settings: Settings
    task: Task
    source: Source
    factors: FactorHistory


def compose_input(config: Node) -> InputSide:
    """Check the configuration and its echo, then build task and data. Raises :class:`SettingError`."""
    settings = read_settings(config)
    task = build(settings.task, Task, key="task")
    check_echo(settings, task)
    require(
        settings.factor != "auto",
        "factor",
        settings.factor,
        allowed=f"a number >= 1, or a recorded history (*.json) with mode={settings.mode}",
        cure="Only training measures what is free; look at factor=4, say.",
    )
    return InputSide(settings, task, task.train_source(), new_factors(settings, task))

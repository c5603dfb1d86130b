"""How a run trains: how long, at which rate, to which target."""

from __future__ import annotations

from dataclasses import dataclass, field

from dataecho.declare import SettingGroup, setting
from dataecho.training.budget import Budget
from dataecho.training.schedule import Schedule
from dataecho.training.target import Target


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(SettingGroup, key="checkpoints"):
    """When checkpoints are written, and which are kept."""

    interval: int = setting(
        1, at_least=0, help="Evaluations between checkpoints; 0: only at the end and on SIGTERM, SIGINT or SIGHUP."
    )
    keep: int = setting(2, at_least=1, help="The newest so many stay, and the best.")
    disk_timeout: float = setting(
        300.0,
        at_least=0,
        unit="seconds",
        help="A run waits so long for room on a full disk; then it ends, and can be resumed.",
    )


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """``eval_interval`` in fresh examples; ``max_loss_ratio`` as in :class:`Divergence`."""

    learning_rate: float
    eval_interval: int
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    stop_at_target: bool = True
    max_loss_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """``schedule`` scales the learning rate of ``settings`` over ``budget``. ``target`` also records when it was
    reached."""

    budget: Budget
    schedule: Schedule
    target: Target
    settings: TrainerSettings

"""How a run trains: how long, at which rate, to which target."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho.training.budget import Budget
from dataecho.training.schedule import Schedule
from dataecho.training.target import Target


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """``eval_interval`` in fresh examples; ``checkpoint_interval`` in evaluations, 0 for only at the end and on a
    signal; the last ``keep_checkpoints`` and the best stay; ``disk_timeout``: seconds to wait for room on a full disk;
    ``max_loss_ratio`` as in :class:`Divergence`."""

    learning_rate: float
    eval_interval: int
    checkpoint_interval: int = 1
    keep_checkpoints: int = 2
    disk_timeout: float = 300.0
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

"""The target of a run, and the cost of reaching it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The metrics that are recorded as ``<name>_to_target`` when the target is first reached.
COSTS = ("fresh_examples", "entered_examples", "steps", "train_time", "wall_time")


@dataclass
class Target:
    """``value`` of ``metric``, reached from below or above. ``costs``: empty until it is reached."""

    metric: str
    value: float
    higher_is_better: bool
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether a mark has reached the target."""
        return bool(self.costs)

    def is_met_by(self, value: float) -> bool:
        """Whether ``value`` reaches the target. NaN does not."""
        return value >= self.value if self.higher_is_better else value <= self.value

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether ``value`` is better than ``than``, the best so far; None if there is none."""
        if than is None:
            return value == value
        return value > than if self.higher_is_better else value < than

    def record(self, value: float, spent: dict[str, float]) -> None:
        """Record the costs if the metric's ``value`` at a mark is the first to reach the target. ``spent`` has every
        name of :data:`COSTS`."""
        if not self.reached and self.is_met_by(value):
            self.costs = {f"{name}_to_target": spent[name] for name in COSTS}

    def as_metrics(self) -> dict[str, float]:
        """``reached_target`` (0 or 1), and the costs once there are any: the cost of a miss is infinite, not the
        budget."""
        return {"reached_target": float(self.reached), **self.costs}

    def state_dict(self) -> dict[str, Any]:
        """The costs."""
        return {"target": self.costs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.costs = dict(state["target"])

"""When a run has arrived, and what it had cost by then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: What is recorded when the target is first reached; each becomes ``<name>_to_target``.
COSTS = ("fresh_examples", "entered_examples", "steps", "train_time", "wall_time")


@dataclass
class Target:
    """``value`` of ``metric``, reached from below or above; ``costs`` is empty until then."""

    metric: str
    value: float
    higher_is_better: bool
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether it has been reached at some mark."""
        return bool(self.costs)

    def is_met_by(self, value: float) -> bool:
        """Whether ``value`` reaches it. NaN does not."""
        return value >= self.value if self.higher_is_better else value <= self.value

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether ``value`` is the best so far."""
        if than is None:
            return value == value
        return value > than if self.higher_is_better else value < than

    def record(self, value: float, spent: dict[str, float]) -> None:
        """Look at the metric of a mark; ``spent`` has every name of :data:`COSTS`."""
        if not self.reached and self.is_met_by(value):
            self.costs = {f"{name}_to_target": spent[name] for name in COSTS}

    def as_metrics(self) -> dict[str, float]:
        """``reached_target`` (0 or 1), and the costs once there are any: a miss costs infinitely much, never the
        budget."""
        return {"reached_target": float(self.reached), **self.costs}

    def state_dict(self) -> dict[str, Any]:
        """The costs."""
        return {"target": self.costs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.costs = dict(state["target"])

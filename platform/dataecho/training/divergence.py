"""Divergence of the training loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Divergence:
    """A run has diverged when the training loss of a mark, the mean over the steps since the last mark, is not finite
    or more than ``max_ratio`` times that of the first mark (None: no limit). A loss that stays as it began is a miss,
    no divergence. ``first_loss``: None before the first mark."""

    max_ratio: float | None
    first_loss: float | None = None

    def found_in(self, loss: float) -> bool:
        """Whether ``loss``, that of the next mark, shows divergence."""
        if not math.isfinite(loss):
            return True
        if self.first_loss is None:
            self.first_loss = loss
        # Losses that may be negative (a log density) have no ratio.
        return self.max_ratio is not None and self.first_loss > 0 and loss > self.max_ratio * self.first_loss

    def state_dict(self) -> dict[str, Any]:
        """The loss of the first mark."""
        return {"first_loss": self.first_loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """A checkpoint of an older version lacks the first loss: that of the next mark takes its place."""
        self.first_loss = state.get("first_loss")

"""Divergence of the training loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Divergence:
    """Looks at the training loss of every mark, a mean over the steps since the last one. Diverged: it is no finite
    number, or more than ``max_ratio`` times that of the first mark (None: no limit). A loss that stays
    where it began is a miss, no divergence. ``first_loss``: None until then."""

    max_ratio: float | None
    first_loss: float | None = None

    def found_in(self, loss: float) -> bool:
        """Whether ``loss``, that of the next mark, is of a run that diverged."""
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

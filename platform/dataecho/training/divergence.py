"""When a training loss has left every sensible range."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Divergence:
    """Looks at the training loss of every mark, a mean over the steps since the last one. Diverged: it is no finite
    number, or more than ``max_ratio`` times that of the first mark (None: as large as it likes). A loss that stays
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

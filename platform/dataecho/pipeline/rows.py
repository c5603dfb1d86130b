"""A few uses that are worked on together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dataecho.plan.order import Ids
from dataecho.plan.plan import PlannedBatch


@dataclass(frozen=True)
class Rows:
    """Uses, arrays [n]; ``place``: their rows in the batch. The other columns are those of :class:`PlannedBatch`."""

    place: Ids
    ordinal: Ids
    epoch: Ids
    shard: Ids
    k: Ids
    repeat: Ids
    num_repeats: Ids

    @classmethod
    def of(cls, planned: PlannedBatch) -> Rows:
        """The rows of a batch that are not padding."""
        valid = slice(planned.num_valid)
        columns = (planned.ordinal, planned.epoch, planned.shard, planned.k, planned.repeat, planned.num_repeats)
        return cls(np.arange(planned.num_valid), *(column[valid] for column in columns))

    def __getitem__(self, which: Any) -> Rows:
        return Rows(
            self.place[which],
            self.ordinal[which],
            self.epoch[which],
            self.shard[which],
            self.k[which],
            self.repeat[which],
            self.num_repeats[which],
        )

    def __len__(self) -> int:
        return len(self.place)

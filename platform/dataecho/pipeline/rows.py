"""Some uses that are worked on together."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from dataecho.plan.order import Ids
from dataecho.plan.plan import PlannedBatch

_columns = attrgetter("ordinal", "epoch", "shard", "k", "repeat", "num_repeats")


@dataclass(frozen=True)
class Rows:
    """Uses, arrays [n]; ``place``: their rows in the batch, or in batches one after the other. The other columns are
    those of :class:`PlannedBatch`."""

    place: Ids
    ordinal: Ids
    epoch: Ids
    shard: Ids
    k: Ids
    repeat: Ids
    num_repeats: Ids

    @classmethod
    def of(cls, *batches: PlannedBatch) -> Rows:
        """The rows of one or more batches, of the same length, that are not padding."""
        size = len(batches[0])
        columns = zip(*map(_columns, batches), strict=True)
        place = np.arange(size * len(batches))
        rows = cls(place, *(np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in columns))
        if all(planned.num_valid == size for planned in batches):
            return rows
        return rows[np.concatenate([np.arange(size) < planned.num_valid for planned in batches])]

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

"""The facts of a step that all ranks share before they train it, so that all decide alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataecho.pipeline.batch import Batch
from dataecho.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Step:
    """The batches of all ranks together: ``num_fresh``, ``num_delivered``, ``num_skipped`` rows (see
    :meth:`Counts.add`); ``num_entered`` items, ``num_reads`` and ``epochs_entered`` so far; ``train_time`` so far, in
    seconds; ``factor`` that was decided last; ``signal`` that asks for the end of the run, 0 for none."""

    num_fresh: int = 0
    num_delivered: int = 0
    num_skipped: int = 0
    num_entered: int = 0
    num_reads: int = 0
    epochs_entered: int = 0
    train_time: float = 0.0
    factor: float = 1.0
    signal: int = 0

    @classmethod
    def of(cls, batch: Batch, *, train_time: float, factor: float, num_reads: int) -> Step:
        """The part of this rank."""
        return cls(
            num_fresh=batch.num_fresh,
            num_delivered=batch.num_delivered,
            num_skipped=len(batch.skipped),
            num_entered=batch.planned.num_entered,
            num_reads=num_reads,
            epochs_entered=batch.planned.epochs_entered,
            train_time=train_time,
            factor=factor,
        )


_NAMES = [field.name for field in dataclasses.fields(Step)]
_OF_FIRST, _LARGEST = ("train_time", "factor"), ("epochs_entered", "signal")


def agree(ranks: Ranks, mine: Step) -> Step:
    """Combine the parts of all ranks, with the same result on every rank: counts are summed, clock and factor are those
    of rank 0, and one signal is enough."""
    if ranks.num_ranks == 1:
        return mine
    rows = ranks.gather(dataclasses.astuple(mine))
    columns = dict(zip(_NAMES, rows.T, strict=True))
    agreed: dict[str, Any] = {name: int(np.sum(column)) for name, column in columns.items()}
    agreed.update((name, int(np.max(columns[name]))) for name in _LARGEST)
    agreed.update((name, float(columns[name][0])) for name in _OF_FIRST)
    return Step(**agreed)

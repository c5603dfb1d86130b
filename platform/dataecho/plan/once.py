"""One pass: every example once, in order, never echoed. Evaluation."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from dataecho.errors import require
from dataecho.plan.batch import PlannedBatch, PlannedBlock
from dataecho.plan.events import Ended, Entered, Event, NeedsLength, Planned
from dataecho.plan.order import Ids


class OncePlan:
    """The batches of ``rank`` of ``num_ranks``: every ``num_ranks``-th. Every rank gets the same number of batches:
    where there is none left for a rank in the last round, it gets that of rank 0. The last batch is padded.

    A plan as :class:`dataecho.plan.plan.Plan` is one, but with an end.
    """

    block_length = 1

    def __init__(
        self, lengths: Mapping[int, int], *, num_shards: int, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> None:
        self._lengths, self._num_shards = lengths, num_shards
        self._batch_size, self._rank, self._num_ranks = batch_size, rank, num_ranks
        self._shard = self._num_planned = self._num_entered = 0
        self._waiting: Ids = np.empty((0, 4), dtype=np.int64)  # items that no batch has yet
        self._events: deque[Event] = deque()
        self._spare: PlannedBatch | None = None  # of rank 0, in a round in which this rank has had none yet

    def next_event(self, num_batches: int = 1) -> Event:
        """As :meth:`Plan.next_event`, at last :class:`Ended`. Raises :class:`SettingError` where there is no
        example."""
        while not self._events:
            if len(self._waiting) >= self._batch_size or (self._shard == self._num_shards and len(self._waiting)):
                self._cut()
            elif self._shard < self._num_shards:
                if self._shard not in self._lengths:
                    return NeedsLength(self._shard)
                self._open_shard()
            elif self._spare is not None:
                spare, self._spare = self._spare, None
                self._deliver(spare)
            else:
                require(
                    self._num_planned > 0,
                    "source",
                    "no example",
                    allowed="at least one",
                    cure="Name held-out data that exists.",
                )
                return Ended()
        return self._events.popleft()

    def _open_shard(self) -> None:
        length = self._lengths[self._shard]
        items = np.zeros((length, 4), dtype=np.int64)
        items[:, 0] = np.arange(self._num_entered, self._num_entered + length)
        items[:, 2], items[:, 3] = self._shard, np.arange(length)
        self._num_entered += length
        self._shard += 1
        self._waiting = np.concatenate([self._waiting, items])

    def _cut(self) -> None:
        items, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
        planned = _planned(items, self._batch_size)
        self._num_planned += 1
        place = planned.batch_ordinal % self._num_ranks
        if place == self._rank:
            if self._spare is not None:
                self._pass_by(self._spare)
                self._spare = None
            self._deliver(planned)
        elif place == 0:
            self._spare = planned
        else:
            self._pass_by(planned)

    def _deliver(self, planned: PlannedBatch) -> None:
        self._events.extend(Entered(items) for items in _by_shard(planned.entered))
        self._events.append(Planned([planned]))

    def _pass_by(self, planned: PlannedBatch) -> None:
        self._events.extend(Entered(items, is_wanted=False) for items in _by_shard(planned.entered))


def _by_shard(items: Ids) -> list[Ids]:
    return np.split(items, np.flatnonzero(np.diff(items[:, 2])) + 1) if len(items) else []


def _planned(items: Ids, batch_size: int) -> PlannedBatch:
    num_valid, first = len(items), int(items[0, 0])
    rows = items[np.minimum(np.arange(batch_size), num_valid - 1)]
    ordinal, epoch, shard, k = (column[None] for column in np.ascontiguousarray(rows.T))
    ones = np.ones_like(ordinal)
    block = PlannedBlock(
        ordinal=ordinal,
        epoch=epoch,
        shard=shard,
        k=k,
        repeat=epoch,
        num_repeats=ones,
        lag=epoch,
        batch_ordinal=[first // batch_size],
        batch_repeat=[0],
        num_batch_repeats=[1],
        num_valid=num_valid,
        entered=items,
        entered_through=[0, num_valid],
        entered_before=first,
        epochs_entered=[1],
        num_fresh=[num_valid],
        num_duplicates=[0],
        total_lag=[0.0],
    )
    return PlannedBatch(block, 0)

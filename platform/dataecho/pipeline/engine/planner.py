"""A plan, one answer at a time, as the engine asks for it."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from dataecho.plan.batch import PlannedBatch
from dataecho.plan.events import Ended, Entered, Event, Planned


class AnyPlan(Protocol):
    """A plan for the engine: :class:`dataecho.plan.plan.Plan` and :class:`dataecho.plan.once.OncePlan`."""

    @property
    def block_length(self) -> int: ...

    def next_event(self, num_batches: int = 1) -> Event: ...


class Planner:
    """Plans in blocks, which is cheaper, and hands out as many batches as are asked for. ``reads_at_entry``: tells
    which items have entered, and then plans one batch at a time, for a shard must not be needed too early."""

    def __init__(self, plan: AnyPlan, *, reads_at_entry: bool) -> None:
        self._plan, self._reads_at_entry = plan, reads_at_entry
        self._block_length = 1 if reads_at_entry else plan.block_length
        self._batches: deque[PlannedBatch] = deque()
        self._has_ended = False

    def next_event(self, num_batches: int) -> Event:
        """The plan's next need or news, or the next ``num_batches`` batches (fewer at its end)."""
        batches = self._batches
        while len(batches) < num_batches and not self._has_ended:
            event = self._plan.next_event(self._block_length)
            if isinstance(event, Planned):
                batches.extend(event.batches)
            elif isinstance(event, Ended):
                self._has_ended = True
            elif not isinstance(event, Entered) or self._reads_at_entry:
                return event
        if not batches:
            return Ended()
        return Planned([batches.popleft() for _ in range(min(num_batches, len(batches)))])

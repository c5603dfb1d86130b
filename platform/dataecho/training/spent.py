"""The examples, steps, reads and time that a run has spent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataecho.pipeline.accounting.meter import Meter
from dataecho.plan.counts import Counts
from dataecho.training.clock import Clock
from dataecho.training.heartbeat import read_heartbeat
from dataecho.training.ranks import Ranks


class Spent:
    """Over all ranks, and over all processes of a run that was resumed. ``folder`` has the heartbeat of a killed one;
    ``meter`` counts the reads of this process."""

    def __init__(self, folder: Path, *, ranks: Ranks, meter: Meter) -> None:
        self.counts, self.clock = Counts(), Clock()
        self._folder, self._ranks, self._meter = folder, ranks, meter
        self._reads_before = 0  # of this rank, in earlier processes
        self._reads_by_rank: list[int] = []

    @property
    def num_reads(self) -> int:
        """Reads of this rank."""
        return self._reads_before + self._meter.read().num_reads

    def count_reads(self) -> None:
        """Bring the reads of all ranks into :attr:`counts`; collective."""
        self._reads_by_rank = [int(num_reads) for num_reads in self._ranks.gather([self.num_reads])[:, 0]]
        self.counts.read_examples = sum(self._reads_by_rank)

    def times(self) -> dict[str, float]:
        """Both clocks, in seconds."""
        return self.clock.state_dict()

    def metrics(self) -> dict[str, float]:
        """Counts and times, by their names in :mod:`dataecho.training.metrics`."""
        return {**self.counts.as_dict(), **self.times()}

    def state_dict(self) -> dict[str, Any]:
        """Call :meth:`count_reads` before."""
        return {"counts": self.counts.as_dict(), "num_reads": self._reads_by_rank, "clock": self.times()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Time and reads that a killed process spent after the checkpoint are spent: its heartbeat has them."""
        self.counts = Counts(**state["counts"])
        lost = read_heartbeat(self._folder)
        reads_of_all = self.counts.read_examples
        by_rank = state.get("num_reads", [reads_of_all] + [0] * (self._ranks.num_ranks - 1))  # older ones lack it
        self._reads_before = by_rank[self._ranks.rank]
        self._reads_before += max(0, int(lost["read_examples"]) - reads_of_all)  # the heartbeat counts all ranks
        self.clock.load_state_dict({name: max(spent, lost[name]) for name, spent in state["clock"].items()})

"""What was measured: plain numbers, all times in seconds per batch unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho.pipeline.stage import DEVICE, READ

#: The last row of every table: not an echo point, but what the echo is for.
STEP = "step"


@dataclass(frozen=True, kw_only=True)
class Side:
    """Seconds per batch. ``worker_seconds`` by stage, ``read`` to ``batch``, summed over the workers;
    ``transfer_seconds``: in which data were fetched or read by threads of their own; ``place_seconds``: the copy to the
    device, ``step_seconds``: training, both until the device is done."""

    worker_seconds: dict[str, float]
    transfer_seconds: float
    place_seconds: float
    step_seconds: float


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """``speed_up``: batches a second with ``num_workers`` in proportion to one worker, records in memory."""

    num_workers: int
    speed_up: float


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """One pipeline and one model on one machine.

    ``stages``: ``read`` to ``device``, the possible echo points. ``alone``: each side while the other rested; ``both``:
    while training. ``cpu_seconds``: processor time by stage and of the step, each alone. ``shares_cores``: whether the
    step computes on the cores that the workers need. ``reads_apart``: whether data are fetched or read by threads of
    their own. Wall time of a batch: ``real_seconds`` of the whole input side, ``cached_seconds`` without reading,
    ``training_seconds`` of both sides together; ``input_wait_fraction`` of the latter was spent waiting, and
    ``busy_share`` of the cores were busy. ``emulated``: limits that were set on purpose, see ``Workload.emulated``.
    """

    stages: tuple[str, ...]
    random_stages: frozenset[str]
    batch_size: int
    num_workers: int
    num_cores: int
    shares_cores: bool
    uses_processes: bool
    reads_apart: bool
    alone: Side
    both: Side
    cpu_seconds: dict[str, float]
    real_seconds: float
    cached_seconds: float
    training_seconds: float
    input_wait_fraction: float
    busy_share: float
    scaling: Scaling
    emulated: dict[str, float]

    @property
    def synthetic_seconds(self) -> float:
        """Wall time of a batch that is there already."""
        return self.alone.place_seconds + self.alone.step_seconds

    @property
    def model_side(self) -> Side:
        """The side that a prediction goes by. Where cores are shared, times with the other side running contain waiting
        for a core: there each side's own time is taken, and the cores are counted on top."""
        return self.alone if self.shares_cores else self.both

    @property
    def rows(self) -> tuple[str, ...]:
        """Everything that takes time: the stages and the step."""
        return (*self.stages, STEP)

    def stage_time(self, side: Side, stage: str) -> float:
        """Seconds per batch of one stage, with all workers at it."""
        times = resources(side, self.num_workers)
        return max(by_stage.get(stage, 0.0) for by_stage in times.values())


def resources(side: Side, num_workers: int) -> dict[str, dict[str, float]]:
    """What runs side by side, and for how long each stage keeps it busy. What is of one resource adds up."""
    return {
        "transfer": {READ: side.transfer_seconds},
        "workers": {stage: seconds / num_workers for stage, seconds in side.worker_seconds.items()},
        "loop": {DEVICE: side.place_seconds, STEP: side.step_seconds},
    }

"""The measurements of a diagnosis: plain numbers, times in seconds per batch unless said otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dataecho.pipeline.stage import DEVICE, READ

_NUM_BLOCKS = 8

#: The last row of every table: the training step, which is no echo point.
STEP = "step"


@dataclass(frozen=True, kw_only=True)
class Side:
    """Seconds per batch. ``worker_seconds`` by stage, ``read`` to ``batch``, summed over the workers;
    ``transfer_seconds``: time in which separate threads fetched or read data; ``place_seconds``: the copy to the
    device, ``step_seconds``: the training step, both until the device has finished."""

    worker_seconds: dict[str, float]
    transfer_seconds: float
    place_seconds: float
    step_seconds: float


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """``speed_up``: the rate with ``num_workers`` over the rate with one worker, with records in memory."""

    num_workers: int
    speed_up: float


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """One pipeline and one model on one machine.

    ``stages``: ``read`` to ``device``, the possible echo points. ``alone``: each side while the other rests; ``both``:
    each side in training. ``cpu_seconds``: processor time by stage and of the step, each alone. ``shares_cores``:
    whether the step computes on the workers' cores. ``reads_apart``: whether separate threads fetch or read data. Wall
    time of a batch: ``real_seconds`` of the input side, ``cached_seconds`` without reading, ``training_seconds`` of
    both sides together; ``input_wait_fraction``: the share of the latter spent in waiting; ``busy_share``: the busy
    share of the cores. ``emulated``: limits that were set on purpose, see ``Workload.emulated``.
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
    ratio_error: float
    emulated: dict[str, float]

    @property
    def synthetic_seconds(self) -> float:
        """Wall time of a resident batch."""
        return self.alone.place_seconds + self.alone.step_seconds

    @property
    def model_side(self) -> Side:
        """The side that predictions use. Where cores are shared, times in training contain waits for a core: there
        predictions use the times of each side alone, and the cores as a resource of their own."""
        return self.alone if self.shares_cores else self.both

    @property
    def rows(self) -> tuple[str, ...]:
        """The stages and the step."""
        return (*self.stages, STEP)

    def stage_time(self, side: Side, stage: str) -> float:
        """Seconds per batch of one stage, with all workers on it."""
        times = resources(side, self.num_workers)
        return max(by_stage.get(stage, 0.0) for by_stage in times.values())


def relative_error(times: ArrayLike) -> float:
    """The relative standard error of the mean of consecutive times, which may come in bursts: by the means of eight
    blocks, fewer where there are fewer times; 0 where there is one only."""
    values = np.asarray(times, float)
    if len(values) < 2 or not values.mean():
        return 0.0
    blocks = np.asarray([block.mean() for block in np.array_split(values, min(_NUM_BLOCKS, len(values)))])
    return float(blocks.std(ddof=1) / math.sqrt(len(blocks)) / blocks.mean())


def resources(side: Side, num_workers: int) -> dict[str, dict[str, float]]:
    """Resources that work in parallel: seconds per batch for which each stage occupies them. Times of one resource add
    up."""
    return {
        "transfer": {READ: side.transfer_seconds},
        "workers": {stage: seconds / num_workers for stage, seconds in side.worker_seconds.items()},
        "loop": {DEVICE: side.place_seconds, STEP: side.step_seconds},
    }

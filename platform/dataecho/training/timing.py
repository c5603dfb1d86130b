"""Time measurements of training, and the time model (paper, section 2)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dataecho.pipeline.accounting.meter import Meter
from dataecho.pipeline.batch import Batch
from dataecho.posix import usable_cores


@dataclass
class Sums:
    """Seconds and counts of an interval of training, without evaluation and logging.

    ``upstream_seconds``: workers' time up to the echo point; ``downstream_seconds``: workers' time after it;
    ``transfer_seconds``: time in which separate threads fetched or read data; ``num_reads``: examples read, those for
    the shuffle buffer included; ``step_seconds``: the loop's time outside of ``next(feed)``; ``input_wait_seconds``:
    its time inside; ``filling_seconds``: the part of the latter before the first batch of a process, while the shuffle
    buffer is filled; ``cpu_seconds``: processor time of the whole process; ``total_lag``: steps between each repeat and
    the use before it, summed over ``repeats``.
    """

    upstream_seconds: float = 0.0
    downstream_seconds: float = 0.0
    transfer_seconds: float = 0.0
    num_reads: int = 0
    step_seconds: float = 0.0
    input_wait_seconds: float = 0.0
    filling_seconds: float = 0.0
    cpu_seconds: float = 0.0
    fresh_examples: int = 0
    steps: int = 0
    duplicates: int = 0
    total_lag: float = 0.0
    repeats: int = 0

    def minus(self, other: Sums) -> Sums:
        """The difference to the earlier sums ``other``."""
        return Sums(**{name: value - getattr(other, name) for name, value in asdict(self).items()})


@dataclass(frozen=True)
class TimeModel:
    """Computes the timing metrics of :mod:`dataecho.training.metrics`. ``shares_cores``: whether training computes on
    the workers' cores. ``workers_are_upstream``: whether all work of the workers is upstream, because nothing, or whole
    batches, are echoed. ``batch_size`` and all measurements are those of one of ``num_ranks`` ranks; the time of a
    fresh example is that of all ranks together."""

    batch_size: int
    num_workers: int
    shares_cores: bool
    workers_are_upstream: bool
    num_ranks: int = 1
    num_cores: int = field(default_factory=usable_cores)

    def metrics(self, sums: Sums) -> dict[str, float]:
        """The timing metrics of a stretch, by their names in :mod:`dataecho.training.metrics`; empty where nothing was
        trained."""
        if not sums.steps or not sums.fresh_examples:
            return {}
        fresh_batches = sums.fresh_examples / self.batch_size
        above, below = sums.upstream_seconds / self.num_workers, sums.downstream_seconds / self.num_workers
        if self.workers_are_upstream:
            above, below = above + below, 0.0
        # Transfers and workers run in parallel: the slower one counts. Transfers are counted per read, since the
        # shuffle buffer is read before anything is fresh.
        per_read = sums.transfer_seconds / sums.num_reads if sums.num_reads else 0.0
        upstream = max(above / fresh_batches, per_read * self.batch_size)
        # Downstream of the echo point the workers and the training step run in parallel: the slower one counts.
        downstream = max(sums.step_seconds, below) / sums.steps
        # The upstream side works from the beginning, the downstream side from the first batch on.
        predicted = max(above, sums.transfer_seconds, sums.filling_seconds + sums.steps * downstream)
        if self.shares_cores:
            predicted = max(predicted, sums.cpu_seconds / self.num_cores)
        measured = sums.step_seconds + sums.input_wait_seconds
        return {
            "upstream_time": upstream,
            "downstream_time": downstream,
            "upstream_downstream_ratio": upstream / downstream if downstream else float("inf"),
            "input_wait_fraction": sums.input_wait_seconds / measured if measured else 0.0,
            "predicted_time_per_fresh_example": predicted / sums.fresh_examples / self.num_ranks,
            "measured_time_per_fresh_example": measured / sums.fresh_examples / self.num_ranks,
            "duplicates_per_batch": sums.duplicates / sums.steps,
            "echo_lag": sums.total_lag / sums.repeats if sums.repeats else 0.0,
        }


class Timekeeper:
    """Adds up :class:`Sums` while training runs: ``ask`` just before ``next(feed)``, ``got`` just after."""

    def __init__(self, meter: Meter, model: TimeModel) -> None:
        self.sums, self._window_start = Sums(), Sums()
        self._meter, self._model = meter, model
        self._last = self._cpu = 0.0
        self._waits: list[float] = []
        self._reading = meter.read()
        #: Whether this process still waits for its first batch.
        self.has_no_batch_yet = True

    def start(self) -> None:
        """Begin, or go on after :meth:`stop`; the time between does not count."""
        self._last, self._cpu = time.perf_counter(), time.process_time()
        self._reading = self._meter.read()

    def ask(self) -> None:
        """The loop asks for a batch: the time until now was step time."""
        now = time.perf_counter()
        self.sums.step_seconds += now - self._last
        self._last = now

    def got(self) -> None:
        """The loop has its batch: the time until now was input wait."""
        now = time.perf_counter()
        wait, self._last = now - self._last, now
        self.sums.input_wait_seconds += wait
        self._waits.append(wait)
        if self.has_no_batch_yet:
            self.has_no_batch_yet = False
            self.sums.filling_seconds += wait

    def metrics(self) -> dict[str, float]:
        """The timing metrics of the whole run."""
        return self._model.metrics(self.sums)

    def take_window(self) -> dict[str, float]:
        """The timing metrics since the last call, and the mean and 95th percentile of the waits for input in this
        process, in seconds."""
        window = self._model.metrics(self.sums.minus(self._window_start))
        waits, self._waits, self._window_start = self._waits, [], Sums(**asdict(self.sums))
        if not waits:
            return window
        return {
            **window,
            "input_wait_mean": float(np.mean(waits)),
            "input_wait_p95": float(np.percentile(waits, 95)),
        }

    def state_dict(self) -> dict[str, Any]:
        """The sums now, and when the window began."""
        return {"sums": asdict(self.sums), "window_start": asdict(self._window_start)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.sums, self._window_start = Sums(**state["sums"]), Sums(**state["window_start"])

    def trained(self, batch: Batch) -> None:
        """Count a step on ``batch``."""
        sums = self.sums
        sums.steps += 1
        sums.fresh_examples += batch.num_fresh
        sums.repeats += batch.planned.num_valid - batch.planned.num_fresh
        sums.duplicates += batch.planned.num_duplicates
        sums.total_lag += batch.planned.total_lag

    def stop(self) -> None:
        """Training pauses or ends: add the work of the workers and the processor time."""
        self.ask()
        reading = self._meter.read()
        self.sums.upstream_seconds += reading.upstream_seconds - self._reading.upstream_seconds
        self.sums.downstream_seconds += reading.downstream_seconds - self._reading.downstream_seconds
        self.sums.transfer_seconds += reading.transfer_seconds - self._reading.transfer_seconds
        self.sums.num_reads += reading.num_reads - self._reading.num_reads
        self.sums.cpu_seconds += reading.worker_cpu_seconds - self._reading.worker_cpu_seconds
        self._reading = reading
        self.sums.cpu_seconds += time.process_time() - self._cpu
        self._cpu = time.process_time()

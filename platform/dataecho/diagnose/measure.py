"""Measures one pipeline and one model: each side alone, then both; with real, cached and synthetic batches.

The differential method: the time of the input is the difference between training on real batches and on one resident
batch (synthetic). The time of reading is the difference between real records and records in memory (cached). The
weights do not change.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dataecho.diagnose.cached_source import CachedSource
from dataecho.diagnose.measurements import STEP, Measurements, Scaling, Side, relative_error
from dataecho.pipeline.accounting.meter import Reading
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import DEVICE, READ, Chunk, Stage, stage_names
from dataecho.plan.batch import PlannedBatch
from dataecho.training.contracts import Backend
from dataecho.training.timing import TimeModel

#: Called often with the part that is being measured, and the finished share of the whole.
ReportProgress = Callable[[str, float], None]

_SHARES = {"step": 0.15, "device": 0.05, "input": 0.3, "both": 0.3, "cached": 0.12, "scaling": 0.08}
_LEAST = 3  # batches, regardless of time
_BUFFER = 4  # batches: a diagnosis needs no good shuffle, and a large buffer would have to be filled first
# The weights stay as they are. The time of a step does not depend on them, unless they become denormal numbers, as they
# do in seconds of training on one batch.
_RATE = 0.0


def measure(
    source: Source,
    stages: Sequence[Stage],
    backend: Backend,
    *,
    batch_size: int,
    shuffle_buffer: int,
    seed: int,
    settings: PipelineSettings,
    seconds: float,
    emulated: dict[str, float],
    show: ReportProgress,
) -> Measurements:
    """Take all :class:`Measurements` in about ``seconds``; longer where three batches take longer than their share.
    ``backend`` trains with a learning rate of 0, and must not be used afterwards. Raises the errors of feed and
    backend."""
    clock = _Schedule(seconds, show)
    num_workers = settings.num_workers
    bench = _Bench(backend, batch_size)
    settings = replace(settings, loop_helps=False)  # measure the workers alone
    with Feed(
        source,
        stages,
        batch_size=batch_size,
        shuffle_buffer=min(shuffle_buffer, _BUFFER * batch_size),
        seed=seed,
        settings=settings,
    ) as feed:
        show("first batch", 0.0)
        first = next(feed)
        feed.pause()
        place, place_cpu = bench.place(first, clock.until("device"))
        step, step_cpu = bench.step(first, clock.until("step"))
        first.release()
        feed.resume()
        _settle(feed, settings.look_ahead)
        real = bench.drain(feed, clock.until("input"))
        both = bench.train(feed, clock.until("both"))
        cached_source = CachedSource(_records(source, both.planned))
    cached = _cached(bench, cached_source, stages, seed, settings, clock.until("cached"))
    other = 1 if num_workers > 1 else 2
    few_or_many = _cached(bench, cached_source, stages, seed, _with_workers(settings, other), clock.until("scaling"))
    names = stage_names(stages)
    # The same facts of the machine as in the trainer's time model.
    model = TimeModel(
        batch_size=batch_size,
        num_workers=num_workers,
        shares_cores=backend.shares_cores,
        workers_are_upstream=True,
    )
    return Measurements(
        stages=names,
        random_stages=frozenset(stage.name for stage in stages if stage.random),
        batch_size=batch_size,
        num_workers=num_workers,
        num_cores=model.num_cores,
        shares_cores=model.shares_cores,
        uses_processes=settings.num_processes > 0,
        reads_apart=source.num_fetches > 0 or source.num_readers > 0 or not source.random_access,
        alone=Side(
            worker_seconds={name: real.worker_seconds.get(name, 0.0) for name in names[:-1]},
            transfer_seconds=real.transfer_seconds,
            place_seconds=place,
            step_seconds=step,
        ),
        both=Side(
            worker_seconds={name: both.worker_seconds.get(name, 0.0) for name in names[:-1]},
            transfer_seconds=both.transfer_seconds,
            place_seconds=both.place_seconds,
            step_seconds=both.step_seconds,
        ),
        cpu_seconds={**_cpu_by_stage(real, cached), DEVICE: place_cpu, STEP: step_cpu},
        real_seconds=real.seconds,
        cached_seconds=cached.seconds,
        training_seconds=both.seconds,
        input_wait_fraction=both.wait_seconds / both.seconds,
        busy_share=both.cpu_seconds / (both.seconds * model.num_cores),
        scaling=Scaling(
            num_workers=max(num_workers, other),
            speed_up=few_or_many.seconds / cached.seconds if other == 1 else cached.seconds / few_or_many.seconds,
        ),
        ratio_error=both.ratio_error,
        emulated=dict(emulated),
    )


@dataclass(frozen=True, kw_only=True)
class _Interval:
    """Times per batch, in seconds; ``planned``: the last batch."""

    seconds: float
    cpu_seconds: float
    worker_seconds: dict[str, float]
    transfer_seconds: float
    planned: PlannedBatch
    wait_seconds: float = 0.0
    place_seconds: float = 0.0
    step_seconds: float = 0.0
    ratio_error: float = 0.0


class _Schedule:
    """Divides ``seconds`` among the parts that are measured one after the other."""

    def __init__(self, seconds: float, show: ReportProgress) -> None:
        self._seconds, self._show = seconds, show
        self._begun = 0.0

    def until(self, part: str) -> _Deadline:
        """The deadline of ``part``, which begins with its first question."""
        before, self._begun = self._begun, self._begun + _SHARES[part]
        return _Deadline(self._seconds * _SHARES[part], lambda share: self._show(part, before + share * _SHARES[part]))


class _Deadline:
    """Allows batches for about ``seconds``, and at least three."""

    def __init__(self, seconds: float, show: Callable[[float], None]) -> None:
        self._seconds, self._show = seconds, show
        self._started: float | None = None

    def goes_on(self, num_batches: int) -> bool:
        """Whether to measure another batch; called before each."""
        now = time.perf_counter()
        if self._started is None:
            self._started = now
        spent = now - self._started
        self._show(min(1.0, spent / self._seconds))
        return num_batches < _LEAST or spent < self._seconds


class _Bench:
    """The measured operations on batches."""

    def __init__(self, backend: Backend, batch_size: int) -> None:
        self._backend, self.batch_size = backend, batch_size

    def place(self, batch: Batch, deadline: _Deadline) -> tuple[float, float]:
        """Wall and processor seconds of a copy to the device."""
        return _repeated(lambda: self._place(batch), deadline)

    def step(self, batch: Batch, deadline: _Deadline) -> tuple[float, float]:
        """Wall and processor seconds of a step on a resident batch."""
        placed = self._place(batch)
        for _ in range(_LEAST):  # warm up: allocate memory, compile
            self._step(placed)
        return _repeated(lambda: self._step(placed), deadline)

    def drain(self, feed: Feed, deadline: _Deadline) -> _Interval:
        """The input side alone."""
        before, started, cpu = feed.meter.read(), time.perf_counter(), time.process_time()
        num_batches = 0
        while deadline.goes_on(num_batches):
            batch = next(feed)
            batch.release()
            num_batches += 1
        return self._interval(feed, before, started, cpu, num_batches, batch.planned)

    def train(self, feed: Feed, deadline: _Deadline) -> _Interval:
        """Input and training together."""
        before, started, cpu = feed.meter.read(), time.perf_counter(), time.process_time()
        num_batches = 0
        waited = placing = 0.0
        ends, steps = [started], []
        while deadline.goes_on(num_batches):
            asked = time.perf_counter()
            batch = next(feed)
            got = time.perf_counter()
            placed = self._place(batch)
            was_placed = time.perf_counter()
            self._step(placed)
            batch.release()
            num_batches += 1
            waited += got - asked
            placing += was_placed - got
            ends.append(time.perf_counter())
            steps.append(ends[-1] - was_placed)
        return replace(
            self._interval(feed, before, started, cpu, num_batches, batch.planned),
            wait_seconds=waited / num_batches,
            place_seconds=placing / num_batches,
            step_seconds=sum(steps) / num_batches,
            ratio_error=math.hypot(relative_error(np.diff(ends)), relative_error(steps)),
        )

    def _place(self, batch: Batch) -> object:
        placed = self._backend.put(batch)
        self._backend.synchronize()
        return placed

    def _step(self, placed: object) -> None:
        self._backend.train_step(placed, learning_rate=_RATE)
        self._backend.synchronize()

    def _interval(
        self, feed: Feed, before: Reading, started: float, cpu: float, num_batches: int, planned: PlannedBatch
    ) -> _Interval:
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        after = feed.meter.read()
        return _Interval(
            seconds=seconds / num_batches,
            cpu_seconds=(cpu_seconds + after.worker_cpu_seconds - before.worker_cpu_seconds) / num_batches,
            worker_seconds=_worker_seconds(before, after, self.batch_size),
            transfer_seconds=(after.transfer_seconds - before.transfer_seconds) / num_batches,
            planned=planned,
        )


def _repeated(work: Callable[[], object], deadline: _Deadline) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    number = 0
    while deadline.goes_on(number):
        work()
        number += 1
    return (time.perf_counter() - started) / number, (time.process_time() - cpu) / number


def _worker_seconds(before: Reading, after: Reading, batch_size: int) -> dict[str, float]:
    """Seconds per batch, by stage. Divided by the examples of each stage, since some batches are incomplete at both
    ends."""
    seconds = {name: spent - before.stage_seconds.get(name, 0.0) for name, spent in after.stage_seconds.items()}
    # Reads of separate threads are part of the stages' times, but not of the workers'.
    by_workers = after.upstream_seconds + after.downstream_seconds - before.upstream_seconds - before.downstream_seconds
    seconds[READ] = max(0.0, by_workers - sum(spent for name, spent in seconds.items() if name != READ))
    counts = {name: count - before.stage_examples.get(name, 0) for name, count in after.stage_examples.items()}
    return {name: spent / counts[name] * batch_size if counts.get(name) else 0.0 for name, spent in seconds.items()}


def _settle(feed: Feed, num_batches: int) -> None:
    """Discard batches that were prepared before the measurement."""
    for _ in range(num_batches):
        next(feed).release()


def _records(source: Source, planned: PlannedBatch) -> list[Chunk]:
    """Read the records of one batch again."""
    items = np.unique(np.stack([planned.shard, planned.k], axis=1)[: planned.num_valid], axis=0)
    return [source.read(items[:, 0], items[:, 1])]


def _with_workers(settings: PipelineSettings, number: int) -> PipelineSettings:
    if settings.num_processes:
        return replace(settings, num_processes=number)
    return replace(settings, num_threads=number)


def _cached(
    bench: _Bench, source: Source, stages: Sequence[Stage], seed: int, settings: PipelineSettings, deadline: _Deadline
) -> _Interval:
    with Feed(source, stages, batch_size=bench.batch_size, shuffle_buffer=0, seed=seed, settings=settings) as feed:
        _settle(feed, settings.look_ahead)
        return bench.drain(feed, deadline)


def _cpu_by_stage(real: _Interval, cached: _Interval) -> dict[str, float]:
    """Processor seconds per batch, by stage. The time with records in memory is divided in proportion to the times of
    the stages; the rest of the real time is reading."""
    working = {name: spent for name, spent in cached.worker_seconds.items() if name != READ}
    total = sum(working.values())
    reading = max(0.0, real.cpu_seconds - cached.cpu_seconds)
    rest = real.cpu_seconds - reading
    return {READ: reading, **{name: rest * spent / total if total else 0.0 for name, spent in working.items()}}

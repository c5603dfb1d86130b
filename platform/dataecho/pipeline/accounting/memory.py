"""How much memory the input side will take, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.accounting.meter import Times
from dataecho.pipeline.batch import layout_of
from dataecho.pipeline.echo_point import EchoPoint
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.work import Work
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Broken, Stage, as_examples, num_bytes
from dataecho.plan.memory import expected_live_results, expected_waiting_records

MIB = 1 << 20
_NUM_SAMPLES = 8


@dataclass(frozen=True)
class Sizes:
    """Mean bytes of one example: as it is read, after the echo point, and as a row of a batch."""

    record: float
    result: float
    row: float


@dataclass(frozen=True)
class Memory:
    """Bytes: ``results`` kept for their next use, ``records`` that were read and wait for their first, ``batches`` in
    work, waiting and in use."""

    results: float
    records: float
    batches: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.results + self.records + self.batches

    def check(self, max_memory: int | None) -> None:
        """Raise :class:`SettingError` where more than ``max_memory`` MiB are needed."""
        require(
            max_memory is None or self.total <= max_memory * MIB,
            "pipeline.max_memory",
            max_memory,
            allowed=f"at least {-int(-self.total // MIB)} MiB: {self}",
            cure="Raise it; or lower task.shuffle_buffer, task.batch_size or pipeline.look_ahead.",
        )

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / MIB:,.1f}" for name, size in asdict(self).items())
        return f"{self.total / MIB:,.1f} MiB ({parts})"


def measure_sizes(source: Source, stages: Sequence[Stage], *, echo: EchoPoint, shard: int) -> Sizes:
    """From a few examples of ``shard``, spread over it. Broken ones are left out."""
    length = source.num_examples(shard)
    ks = np.unique(np.linspace(0, length - 1, _NUM_SAMPLES).astype(np.int64)) if length else np.empty(0, dtype=np.int64)
    zeros = np.zeros(len(ks), dtype=np.int64)
    rows = Rows(np.arange(len(ks)), zeros, zeros, np.full(len(ks), shard), ks, zeros, zeros + 1)
    if not len(ks):
        return Sizes(0.0, 0.0, 0.0)
    work = Work(source, stages, echo=echo, seed=0)
    records, results, made = work.trace(rows, Times())
    row = 0
    if len(made.place):
        layout = layout_of(made.chunk)
        row = sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in layout.values())
    return Sizes(_mean_bytes(as_examples(records)), _mean_bytes(as_examples(results)), float(row))


def predict_memory(
    sizes: Sizes,
    *,
    batch_size: int,
    shuffle_buffer: int,
    factor: float,
    echo: EchoPoint,
    batch_shuffle_buffer: int,
    reads_at_entry: bool,
    look_ahead: int,
) -> Memory:
    """Means in the steady state of a plan with these settings. Results and records: see :mod:`dataecho.plan.memory`;
    batches: the look-ahead and the one that is trained on, and under batch echo the originals that are copied."""
    item_factor = factor if echo.echoes_items else 1.0
    waiting = expected_waiting_records(shuffle_buffer, item_factor) if reads_at_entry else 0.0
    num_batches = look_ahead + 1.0
    if echo.echoes_batches:
        num_batches += expected_live_results(batch_shuffle_buffer, factor) + (1 if factor > 1 else 0)
    live = expected_live_results(shuffle_buffer, item_factor) if echo.echoes_items else 0.0
    return Memory(live * sizes.result, waiting * sizes.record, num_batches * batch_size * sizes.row)


def _mean_bytes(examples: Sequence[object]) -> float:
    whole = [num_bytes(example) for example in examples if not isinstance(example, Broken)]
    return float(np.mean(whole)) if whole else 0.0

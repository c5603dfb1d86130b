"""A few examples of a plan's first batch after every stage, with their uses in the plan."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataecho.pipeline.echo_point import EchoPoint
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.work import Work
from dataecho.pipeline.feed import plan_of
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import BATCH, Broken, as_examples
from dataecho.plan.batch import PlannedBatch
from dataecho.plan.events import NeedsLength, Planned
from dataecho.plan.factors import FactorHistory
from dataecho.plan.plan import Plan
from dataecho.training.contracts import Task
from dataecho.training.shown import Shown

_MOST_BUFFERS = 8  # of a buffer's length: a use that waits for longer is one of three thousand


@dataclass(frozen=True)
class Repeat:
    """One use of an example: the ``step`` that trains on it, from 1, and the example after each repeated stage."""

    step: int
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Traced:
    """One example: its name, the number of its ``batch`` (from 1), its number of uses, the example after each stage
    that runs once, and its first ``repeats``."""

    name: str
    batch: int
    num_repeats: int
    once: tuple[Shown, ...]
    repeats: tuple[Repeat, ...]


@dataclass(frozen=True)
class Trace:
    """``once``: the stages up to the echo point; ``repeated``: those after it, or ``batch`` or ``device`` if there is
    none; empty without echo. ``random``: the random ones among all."""

    once: tuple[str, ...]
    repeated: tuple[str, ...]
    random: frozenset[str]
    examples: tuple[Traced, ...]


def trace(
    task: Task,
    source: Source,
    *,
    echo_after: str | None,
    factor: FactorHistory,
    batch_shuffle_buffer: int,
    seed: int,
    num_examples: int,
    num_repeats: int,
    on_shard: Callable[[int], None] = lambda num_examples: None,
) -> Trace:
    """``num_examples`` of the first batch, each with its first ``num_repeats`` uses; under batch echo of the first two
    batches. Plan, stages and keys are those of a run with these settings. A use that does not come within a few lengths
    of the buffer is left out, since each step has to be planned. ``on_shard`` is called with the length of every shard
    that is opened. Raises :class:`SettingError` for settings that cannot be planned."""

    stages = task.stages()
    echo = EchoPoint.resolve(echo_after, stages)
    lengths: dict[int, int] = {}
    plan = plan_of(
        source,
        lengths,
        seed=seed,
        batch_size=task.batch_size,
        shuffle_buffer=task.shuffle_buffer,
        factor=factor,
        echo_batches=echo.echoes_batches,
        batch_shuffle_buffer=batch_shuffle_buffer,
    )
    for length in lengths.values():
        on_shard(length)
    buffer = batch_shuffle_buffer if echo.echoes_batches else task.shuffle_buffer / task.batch_size
    most_steps = int(_MOST_BUFFERS * buffer + 2 * factor.newest) + 2
    found = _first_uses(
        itertools.islice(_planned(plan, lengths, source, on_shard), most_steps),
        num_batches=2 if echo.echoes_batches and factor.newest > 1 else 1,
        num_examples=num_examples,
        num_repeats=num_repeats,
    )
    columns = _after_every_stage(Work(source, stages, echo=echo, seed=seed), found, task.show)
    names = list(columns)
    num_once = names.index(echo.stage) + 1 if echo.stage in names else len(names)
    once, repeated = names[:num_once], names[num_once:]
    if echo_after is not None and not repeated:
        repeated = [echo.stage if echo.echoes_batches else BATCH]
        columns[repeated[0]] = columns[once[-1]]
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, use in enumerate(found):
        rows_of[use.ordinal].append(row)
    return Trace(
        tuple(once),
        tuple(repeated),
        frozenset(stage.name for stage in stages if stage.random),
        tuple(
            Traced(
                source.name(found[rows[0]].shard, found[rows[0]].k),
                found[rows[0]].batch,
                found[rows[0]].num_repeats,
                tuple(columns[name][rows[0]] for name in once),
                tuple(Repeat(found[row].step, tuple(columns[name][row] for name in repeated)) for row in rows)
                if repeated
                else (),
            )
            for rows in rows_of.values()
        ),
    )


def _planned(
    plan: Plan, lengths: dict[int, int], source: Source, on_shard: Callable[[int], None]
) -> Iterator[PlannedBatch]:
    """The planned batches, one by one, since the source may have to open further shards."""
    while True:
        event = plan.next_event()
        if isinstance(event, NeedsLength):
            lengths[event.shard] = source.num_examples(event.shard)
            on_shard(lengths[event.shard])
        elif isinstance(event, Planned):
            yield from event.batches


@dataclass(frozen=True)
class _Use:
    """A row of the batch of ``step``, whose item was chosen from ``batch``; the other fields as in
    :class:`PlannedBatch`."""

    batch: int
    step: int
    ordinal: int
    epoch: int
    shard: int
    k: int
    repeat: int
    num_repeats: int


def _first_uses(
    batches: Iterable[PlannedBatch], *, num_batches: int, num_examples: int, num_repeats: int
) -> list[_Use]:
    """The first uses of the first items of the first ``num_batches`` batches, by item."""
    found: dict[int, list[_Use]] = {}
    batch_of: dict[int, int] = {}
    chosen: set[int] = set()
    for step, planned in enumerate(batches, start=1):
        if planned.batch_ordinal not in chosen and len(chosen) < num_batches:
            chosen.add(planned.batch_ordinal)
            items = dict.fromkeys(planned.ordinal.tolist())
            batch_of |= dict.fromkeys(itertools.islice(items, -(-num_examples // num_batches)), len(chosen))
            found |= {ordinal: [] for ordinal in batch_of.keys() - found.keys()}
        for row in np.flatnonzero(np.isin(planned.ordinal, list(found))).tolist():
            use = _use(planned, row, step, batch_of)
            if use.repeat < num_repeats:
                found[use.ordinal].append(use)
        if len(chosen) == num_batches and all(
            uses and len(uses) == min(num_repeats, uses[0].num_repeats) for uses in found.values()
        ):
            break
    return [use for ordinal in batch_of for use in found[ordinal]]


def _use(planned: PlannedBatch, row: int, step: int, batch_of: Mapping[int, int]) -> _Use:
    names = ("ordinal", "epoch", "shard", "k", "repeat", "num_repeats")
    columns = [int(getattr(planned, name)[row]) for name in names]
    return _Use(batch_of[columns[0]], step, *columns)


def _after_every_stage(work: Work, uses: Sequence[_Use], show: Callable[[Any], Shown]) -> dict[str, list[Shown]]:
    """The examples of all uses after each stage, ``read`` first."""
    columns = np.array(
        [(use.ordinal, use.epoch, use.shard, use.k, use.repeat, use.num_repeats) for use in uses], dtype=np.int64
    ).T
    rows = Rows(np.arange(len(uses)), *columns)
    return {name: [_shown(example, show) for example in as_examples(chunk)] for name, chunk in work.every_stage(rows)}


def _shown(example: Any, show: Callable[[Any], Shown]) -> Shown:
    if isinstance(example, Broken):
        return Shown(text=f"broken: {example.stage}: {example.reason}", is_right=False)
    try:
        return show(example)
    except Exception as error:  # a damaged record, which the next stage will refuse
        return Shown(text=f"cannot be shown: {type(error).__name__}: {error}", is_right=False)

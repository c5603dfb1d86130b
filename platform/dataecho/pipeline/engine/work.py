"""The work on a few rows of a batch: the same in every thread and process, and without state but for the times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from dataecho.pipeline.accounting.meter import Times
from dataecho.pipeline.echo_point import EchoPoint
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import (
    READ,
    Broken,
    Chunk,
    Example,
    ExampleError,
    Stage,
    as_examples,
    chunk_length,
    one_by_one,
    run_stage,
    stage_names,
)
from dataecho.pipeline.storage.store import Entry
from dataecho.plan.keys import Keys, KeyStream
from dataecho.plan.order import Ids


@dataclass(frozen=True)
class Made:
    """``chunk``: the examples to be written into the rows ``place`` of the batch; ``broken``: the other rows, and
    why."""

    place: Ids
    chunk: Chunk
    broken: dict[int, Broken]


@dataclass(frozen=True)
class _Step:
    """A stage, and the keys of the rows it works on where it is random."""

    stage: Stage
    keys: Keys | None


class Work:
    """The stages of a pipeline, cut at the echo point.

    Of the entries that a call gets it makes those that are not done, each once; the others must be done.
    """

    def __init__(self, source: Source, stages: Sequence[Stage], *, echo: EchoPoint, seed: int) -> None:
        names = stage_names(stages)
        self.source, self.echo = source, echo
        num_upstream = names.index(echo.stage) if echo.echoes_items else len(stages)
        streams = {stage.name: KeyStream(seed, f"stage.{stage.name}") for stage in stages if stage.random}
        keyed = [(stage, streams.get(stage.name)) for stage in stages]
        self._upstream, self._downstream = keyed[:num_upstream], keyed[num_upstream:]
        #: Whether the last stage takes one example at a time, so that each can be written as soon as it is made.
        self.ends_one_by_one = bool(stages) and not stages[-1].batched
        #: Names of what is done once per item.
        self.upstream_names = frozenset(names[: num_upstream + 1])

    def read(self, epochs: Ids, shards: Ids, ks: Ids, times: Times) -> Chunk:
        """The records at these positions. Raises :class:`ExampleError` for what concerns more than one of them."""
        with times.of(READ, len(ks)):
            try:
                chunk = self.source.read(shards, ks)
                if chunk_length(chunk) != len(ks):
                    raise ValueError(f"{len(ks)} records were asked for, {chunk_length(chunk)} came")
                return chunk
            except Exception as error:
                also = f" (or the {len(ks) - 1} read with it)" if len(ks) > 1 else ""
                where = self.where(epochs[0], shards[0], ks[0]) + also
                raise ExampleError(READ, where, f"{type(error).__name__}: {error}") from error

    def make(self, rows: Rows, entries: Sequence[Entry] | None, times: Times) -> Made:
        """From reading to what is written into the batch; ``entries``, one a row, where results are kept or records
        were read before."""
        steps, chunk = self._begin(rows, entries, times)
        return _made(rows, self._run(steps, chunk, rows, times))

    def make_each(self, rows: Rows, entries: Sequence[Entry] | None, times: Times) -> Iterator[Example]:
        """The same, one example or :class:`Broken` after the other, for stages that end one by one."""
        steps, chunk = self._begin(rows, entries, times)
        num_together = max((number for number, step in enumerate(steps, start=1) if step.stage.batched), default=0)
        chunk = self._run(steps[:num_together], chunk, rows, times)
        return self._one_by_one(steps[num_together:], chunk, rows, times)

    def trace(self, rows: Rows, times: Times) -> tuple[Chunk, Chunk, Made]:
        """The same, with what was there on the way: records, results of the echo point, rows of the batch."""
        records = self.read(rows.epoch, rows.shard, rows.k, times)
        results = self._run(self._up(rows), records, rows, times)
        return records, results, _made(rows, self._run(self._down(rows), results, rows, times))

    def every_stage(self, rows: Rows) -> Iterator[tuple[str, Chunk]]:
        """The names of ``read`` and of all stages, each with what is there after it. Every row goes through all of
        them, also where another row is of the same item."""
        times = Times()
        chunk = self.read(rows.epoch, rows.shard, rows.k, times)
        yield READ, chunk
        for step in (*self._up(rows), *self._down(rows)):
            chunk = self._run([step], chunk, rows, times)
            yield step.stage.name, chunk

    def where(self, epoch: np.int64, shard: np.int64, k: np.int64) -> str:
        """An item, as a person finds it."""
        return f"{self.source.name(int(shard), int(k))} (epoch {epoch})"

    def items_name(self, epochs: Ids, shards: Ids, ks: Ids) -> str:
        """Some items, as a person finds them."""
        first = self.where(epochs[0], shards[0], ks[0])
        return first if len(ks) == 1 else f"{first} and the {len(ks) - 1} after it"

    def make_results(self, rows: Rows, entries: Sequence[Entry], times: Times) -> None:
        """Make the results of the stage before the echo point for the ``entries``, one a row, that are not done."""
        first: dict[int, int] = {}
        for number, entry in enumerate(entries):
            if not entry.is_done:
                first.setdefault(id(entry), number)
        mine = list(first.values())
        if mine:
            wanted = rows[np.array(mine)]
            records = self._records(wanted, [entries[number].record for number in mine], times)
            results = as_examples(self._run(self._up(wanted), records, wanted, times))
            for number, result in zip(mine, results, strict=True):
                entries[number].fulfil(result)

    def _from_store(self, rows: Rows, entries: Sequence[Entry], times: Times) -> list[Example]:
        self.make_results(rows, entries, times)
        return [entry.use() for entry in entries]

    def _records(self, rows: Rows, records: Sequence[Entry | None], times: Times) -> Chunk:
        missing = [number for number, record in enumerate(records) if record is None]
        if len(missing) == len(records):
            return self.read(rows.epoch, rows.shard, rows.k, times)
        # What had entered before a resume, or was lost with a worker, was not read at entry.
        rest = rows[np.array(missing, dtype=np.int64)]
        read = iter(as_examples(self.read(rest.epoch, rest.shard, rest.k, times)) if missing else ())
        return [next(read) if record is None else record.use() for record in records]

    def _begin(self, rows: Rows, entries: Sequence[Entry] | None, times: Times) -> tuple[list[_Step], Chunk]:
        """The steps that are left for some rows, and the chunk that these begin with."""
        if entries is None:
            return [*self._up(rows), *self._down(rows)], self.read(rows.epoch, rows.shard, rows.k, times)
        return self._down(rows), self._from_store(rows, entries, times)

    def _up(self, rows: Rows) -> list[_Step]:
        # Repeat 0 for all: whichever use happens to come first, the result is that of the first.
        return [_Step(stage, _keys(stream, rows, 0)) for stage, stream in self._upstream]

    def _down(self, rows: Rows) -> list[_Step]:
        return [_Step(stage, _keys(stream, rows, rows.repeat)) for stage, stream in self._downstream]

    def _run(self, steps: Sequence[_Step], chunk: Chunk, rows: Rows, times: Times) -> Chunk:
        for is_batched, some in itertools.groupby(steps, key=attrgetter("stage.batched")):
            if is_batched:
                for step in some:
                    chunk = self._run_batched(step, chunk, rows, times)
            else:
                chunk = list(self._one_by_one(list(some), chunk, rows, times))
        return chunk

    def _one_by_one(self, steps: Sequence[_Step], chunk: Chunk, rows: Rows, times: Times) -> Iterator[Example]:
        seconds = [0.0] * len(steps)
        yield from one_by_one([step.stage for step in steps], chunk, [step.keys for step in steps], seconds)
        for step, spent in zip(steps, seconds, strict=True):
            times.add(step.stage.name, len(rows), spent)

    def _run_batched(self, step: _Step, chunk: Chunk, rows: Rows, times: Times) -> Chunk:
        with times.of(step.stage.name, len(rows)):
            try:
                return run_stage(step.stage, chunk, step.keys)
            except Exception as error:
                where = f"{self._where(rows)} and the {len(rows) - 1} after it, together"
                raise ExampleError(step.stage.name, where, f"{type(error).__name__}: {error}") from error

    def _where(self, rows: Rows) -> str:
        return self.where(rows.epoch[0], rows.shard[0], rows.k[0])


def _keys(stream: KeyStream | None, rows: Rows, repeat: Ids | int) -> Keys | None:
    return stream.keys(rows.epoch, rows.shard, rows.k, repeat) if stream is not None else None


def _made(rows: Rows, chunk: Chunk) -> Made:
    if isinstance(chunk, list):
        broken = {int(rows.place[n]): example for n, example in enumerate(chunk) if isinstance(example, Broken)}
        if broken:
            whole = [n for n, example in enumerate(chunk) if not isinstance(example, Broken)]
            return Made(rows.place[whole], [chunk[n] for n in whole], broken)
    return Made(rows.place, chunk, {})

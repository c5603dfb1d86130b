"""What is done to a few rows of a batch: the same in every thread and process, and without state but for the times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.meter import Times
from dataecho.pipeline.rows import Rows
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import (
    BATCH,
    DEVICE,
    READ,
    Broken,
    Chunk,
    Example,
    ExampleError,
    Stage,
    as_examples,
    chunk_length,
    run_stage,
    stage_names,
)
from dataecho.pipeline.store import Entry
from dataecho.plan.keys import KeyStream
from dataecho.plan.order import Ids


@dataclass(frozen=True)
class Made:
    """``chunk``: the examples to be written into the rows ``place`` of the batch; ``broken``: the other rows, and
    why."""

    place: Ids
    chunk: Chunk
    broken: dict[int, Broken]


class Work:
    """The stages of a pipeline, cut at the echo point: ``echo_after`` is a stage's own name."""

    def __init__(self, source: Source, stages: Sequence[Stage], *, echo_after: str, seed: int) -> None:
        names = stage_names(stages)
        require(
            echo_after in names,
            "echo.after",
            echo_after,
            allowed=", ".join(names),
            cure="Name a stage of the pipeline.",
        )
        self.source = source
        self.echoes_items = echo_after not in (BATCH, DEVICE)
        num_upstream = names.index(echo_after) if self.echoes_items else len(stages)
        streams = {stage.name: KeyStream(seed, f"stage.{stage.name}") for stage in stages if stage.random}
        self._upstream = [(stage, streams.get(stage.name)) for stage in stages[:num_upstream]]
        self._downstream = [(stage, streams.get(stage.name)) for stage in stages[num_upstream:]]
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
        if entries is None:
            chunk = self._up(rows, self.read(rows.epoch, rows.shard, rows.k, times), times)
        else:
            chunk = self._from_store(rows, entries, times)
        return self._down(rows, chunk, times)

    def trace(self, rows: Rows, times: Times) -> tuple[Chunk, Chunk, Made]:
        """The same, with what was there on the way: records, results of the echo point, rows of the batch."""
        records = self.read(rows.epoch, rows.shard, rows.k, times)
        results = self._up(rows, records, times)
        return records, results, self._down(rows, results, times)

    def every_stage(self, rows: Rows) -> Iterator[tuple[str, Chunk]]:
        """The names of ``read`` and of all stages, each with what is there after it. Every row goes through all of
        them, also where another row is of the same item."""
        times = Times()
        chunk = self.read(rows.epoch, rows.shard, rows.k, times)
        yield READ, chunk
        for stage, stream in self._upstream:
            chunk = self._step(stage, stream, 0, chunk, rows, times)
            yield stage.name, chunk
        for stage, stream in self._downstream:
            chunk = self._step(stage, stream, rows.repeat, chunk, rows, times)
            yield stage.name, chunk

    def where(self, epoch: np.int64, shard: np.int64, k: np.int64) -> str:
        """An item, as a person finds it."""
        return f"{self.source.name(int(shard), int(k))} (epoch {epoch})"

    def _from_store(self, rows: Rows, entries: Sequence[Entry], times: Times) -> list[Example]:
        mine = [number for number, entry in enumerate(entries) if entry.claim()]
        if mine:
            try:
                wanted = rows[np.array(mine)]
                records = self._records(wanted, [entries[number].record for number in mine], times)
                results = as_examples(self._up(wanted, records, times))
            except BaseException as error:
                for number in mine:
                    entries[number].fail(error)
                raise
            for number, result in zip(mine, results, strict=True):
                entries[number].fulfil(result)
        return [entry.use() for entry in entries]

    def _records(self, rows: Rows, records: Sequence[Entry | None], times: Times) -> Chunk:
        missing = [number for number, record in enumerate(records) if record is None]
        if len(missing) == len(records):
            return self.read(rows.epoch, rows.shard, rows.k, times)
        # What had entered before a resume, or was lost with a worker, was not read at entry.
        rest = rows[np.array(missing, dtype=np.int64)]
        read = iter(as_examples(self.read(rest.epoch, rest.shard, rest.k, times)) if missing else ())
        return [next(read) if record is None else record.use() for record in records]

    def _up(self, rows: Rows, chunk: Chunk, times: Times) -> Chunk:
        for stage, stream in self._upstream:
            # Repeat 0 for all: whichever use happens to come first, the result is that of the first.
            chunk = self._step(stage, stream, 0, chunk, rows, times)
        return chunk

    def _down(self, rows: Rows, chunk: Chunk, times: Times) -> Made:
        for stage, stream in self._downstream:
            chunk = self._step(stage, stream, rows.repeat, chunk, rows, times)
        return _made(rows, chunk)

    def _step(
        self, stage: Stage, stream: KeyStream | None, repeat: Ids | int, chunk: Chunk, rows: Rows, times: Times
    ) -> Chunk:
        keys = stream.keys(rows.epoch, rows.shard, rows.k, repeat) if stream is not None else None
        with times.of(stage.name, len(rows)):
            try:
                return run_stage(stage, chunk, keys)
            except Exception as error:
                where = f"{self._where(rows)} and the {len(rows) - 1} after it, together"
                raise ExampleError(stage.name, where, f"{type(error).__name__}: {error}") from error

    def _where(self, rows: Rows) -> str:
        return self.where(rows.epoch[0], rows.shard[0], rows.k[0])


def _made(rows: Rows, chunk: Chunk) -> Made:
    if isinstance(chunk, list):
        broken = {int(rows.place[n]): example for n, example in enumerate(chunk) if isinstance(example, Broken)}
        if broken:
            whole = [n for n, example in enumerate(chunk) if not isinstance(example, Broken)]
            return Made(rows.place[whole], [chunk[n] for n in whole], broken)
    return Made(rows.place, chunk, {})

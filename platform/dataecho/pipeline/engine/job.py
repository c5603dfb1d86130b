"""One batch on its way through the engine."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dataecho.pipeline.accounting.meter import Times
from dataecho.pipeline.batch import Arrays, Batch, BatchPool, Block, Layout, Skipped, layout_of, write_rows
from dataecho.pipeline.engine.fill import misfit
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.work import Made, Work
from dataecho.pipeline.stage import BATCH, Broken, ExampleError
from dataecho.plan.batch import PlannedBatch


class Job:
    """``num_pieces`` pieces of work that fill one batch; then, under batch echo, ``num_users`` repeats take it."""

    __slots__ = (
        "_arrays",
        "_block",
        "_is_shared",
        "_lock",
        "_num_left",
        "_pool",
        "broken",
        "error",
        "finished",
        "num_users",
        "planned",
    )

    def __init__(self, planned: PlannedBatch, pool: BatchPool, *, num_pieces: int) -> None:
        self.planned = planned
        #: Whether the batch, or the error in its place, is there.
        self.finished = False
        self.error: BaseException | None = None
        self.num_users = 1
        self.broken: dict[int, Broken] = {}
        self._pool = pool
        self._arrays: Arrays | None = None
        self._block: Block | None = None  # that the arrays belong to; None where another job has it
        self._is_shared = False
        self._num_left = num_pieces
        self._lock = threading.Lock()

    def piece_ended(self, error: BaseException | None) -> None:
        """One of the pieces has ended. Called by the board."""
        self._num_left -= 1
        self.error = self.error or error
        self.finished = self._num_left == 0 or self.error is not None

    def arrays(self, layout: Layout) -> Arrays:
        """Where rows are written; the first to come shape the arrays."""
        with self._lock:
            return self._arrays if self._arrays is not None else self._hold(self._pool.take(layout))

    @staticmethod
    def write_all(jobs: Sequence[Job], made: Made, rows: Rows, work: Work, times: Times, *, hands_on: bool) -> None:
        """All rows of batches that follow each other, into one block; ``hands_on``: not copied, where that is possible.
        Raises :class:`ExampleError` where they do not fit each other."""
        size = len(jobs[0].planned)
        for row, broken in made.broken.items():
            jobs[row // size].add_broken({row % size: broken})
        if not len(made.place):
            return
        with times.of(BATCH, len(made.place)):
            try:
                pool, is_whole = jobs[0]._pool, len(made.place) == size * len(jobs)
                block = pool.hand_on(made.chunk, len(jobs)) if hands_on and is_whole else None
                if block is None:
                    block = pool.take(layout_of(made.chunk), len(jobs))
                    write_rows(block.arrays, made.place, made.chunk)
            except ValueError as error:
                raise misfit(rows, made.place, work, error) from error
        for job, arrays in zip(jobs, block.batches(), strict=True):
            job._block, job._arrays = block, arrays

    def add_broken(self, broken: dict[int, Broken]) -> None:
        """These rows have failed."""
        if broken:
            with self._lock:
                self.broken.update(broken)

    def copy_from(self, original: Job, *, share: bool) -> None:
        """Become a repeat of ``original``, which is finished."""
        if original.error is not None:
            raise original.error
        self.broken = original.broken
        if original._arrays is None:  # every row is broken
            return
        if share:
            self._share(original)
            return
        mine = self._hold(self._pool.take(layout_of(original._arrays)))
        for name, values in original._arrays.items():
            mine[name][...] = values

    def repeat_taken(self, *, share: bool) -> None:
        """One of the repeats has been made of this; after the last the arrays are used again. Called by the board."""
        self.num_users -= 1
        if self.num_users == 0 and self._block is not None and not share:
            self._block.release()

    def _share(self, original: Job) -> None:
        """The same arrays, which go when the last repeat has released them."""
        with original._lock:
            if original._block is not None and not original._is_shared:
                original._block.share(original.num_users)
                original._is_shared = True
        self._arrays, self._block = original._arrays, original._block

    def skipped(self, work: Work) -> tuple[Skipped, ...]:
        """The items whose first use was to be here."""
        if not self.broken:
            return ()
        repeats = self.planned.repeat
        return tuple(
            Skipped(self.where(row, work), broken.stage, broken.reason)
            for row, broken in sorted(self.broken.items())
            if repeats[row] == 0
        )

    def batch(self, skipped: tuple[Skipped, ...], work: Work) -> Batch:
        """The finished batch: what failed and what is padding has weight 0, and is a copy of a row that is not."""
        size, num_valid = len(self.planned), self.planned.num_valid
        weights = _ones(size).copy()
        if num_valid < size or self.broken:
            weights[num_valid:] = 0
            weights[list(self.broken)] = 0
            self._fill(weights, work)
        assert self._arrays is not None
        return Batch(self._arrays, weights, self.planned, skipped, self._block)

    def _fill(self, weights: NDArray[np.float32], work: Work) -> None:
        good = np.flatnonzero(weights)
        if self._arrays is None or not len(good):
            row, broken = min(self.broken.items())
            raise ExampleError(
                broken.stage, self.where(row, work), f"no example of a whole batch is good; {broken.reason}"
            )
        for values in self._arrays.values():
            values[weights == 0] = values[good[0]]

    def _hold(self, block: Block) -> Arrays:
        self._block, self._arrays = block, block.arrays
        return self._arrays

    def where(self, row: int, work: Work) -> str:
        """The item of a row, as a person finds it."""
        return work.where(self.planned.epoch[row], self.planned.shard[row], self.planned.k[row])


@cache
def _ones(size: int) -> NDArray[np.float32]:
    return np.ones(size, dtype=np.float32)

"""Pieces of work, as workers and readers take them from their queues."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from dataecho.pipeline.crew import Crew, Material
from dataecho.pipeline.job import Job
from dataecho.pipeline.meter import Meter, Times
from dataecho.pipeline.pace import Pace
from dataecho.pipeline.read_ahead import Closed, ReadAhead
from dataecho.pipeline.rows import Rows
from dataecho.pipeline.stage import BATCH, as_examples
from dataecho.pipeline.store import Entry
from dataecho.pipeline.work import Work
from dataecho.plan.order import Ids


class Task(abc.ABC):
    """A piece of work, done by one worker or reader, for the batches ``jobs``."""

    jobs: Sequence[Job] = ()

    @abc.abstractmethod
    def run(self, number: int) -> None:
        """Do it, as this worker or reader; an exception fails the jobs."""

    def is_at_hand(self) -> bool:
        """Whether everything has been read that this is made from."""
        return False

    def apart(self) -> Sequence[Task]:
        """The same in smaller pieces, where an exception would fail more jobs than the one that is to blame."""
        return ()

    def abandon(self) -> None:  # noqa: B027 - of most nobody waits for anything but the jobs
        """It will not be done: whoever waits for it is told so."""


class ReadTask(Task):
    """Read some items. A failure is told by the batch that first needs the record."""

    def __init__(
        self, items: Ids, records: list[Entry], work: Work, read_ahead: ReadAhead, meter: Meter, *, is_entry: bool
    ) -> None:
        self._items, self._records = items, records
        self._work, self._read_ahead, self._meter, self._is_entry = work, read_ahead, meter, is_entry

    def run(self, number: int) -> None:
        epochs, shards, ks = self._items.T[1:]
        times = Times()
        try:
            with self._meter.transfer():
                results = as_examples(self._work.read(epochs, shards, ks, times))
        except BaseException as error:
            for record in self._records:
                record.fail(error)
        else:
            for record, result in zip(self._records, results, strict=True):
                record.hold(result)
        self._meter.add(times, by_worker=False)
        if self._is_entry:
            self._read_ahead.done(zip(epochs.tolist(), shards.tolist(), strict=True))

    def abandon(self) -> None:
        for record in self._records:
            record.fail(Closed())


class RowsTask(Task):
    """A few rows of a batch, from reading to writing."""

    def __init__(self, job: Job, rows: Rows, material: Material, crew: Crew) -> None:
        self.jobs = (job,)
        self._rows, self._material, self._crew = rows, material, crew

    def run(self, number: int) -> None:
        self._crew.make(number, self.jobs[0], self._rows, self._material)

    def is_at_hand(self) -> bool:
        return self._material is not None and all(entry is None or entry.is_at_hand for entry in self._material)


class WholeTask(Task):
    """One or more whole batches of which nothing is kept: for work so cheap that every change of threads shows, or so
    that batches are what the last stage makes (``hands_on``)."""

    def __init__(self, jobs: Sequence[Job], work: Work, meter: Meter, pace: Pace, *, hands_on: bool) -> None:
        self.jobs = jobs
        self._work, self._meter, self._pace, self._hands_on = work, meter, pace, hands_on

    def run(self, number: int) -> None:
        rows, times = Rows.of(*(job.planned for job in self.jobs)), Times()
        made = self._work.make(rows, None, times)
        Job.write_all(self.jobs, made, rows, self._work, times, hands_on=self._hands_on)
        self._meter.add(times)
        self._pace.done(len(rows), times.total)

    def apart(self) -> Sequence[Task]:
        if len(self.jobs) == 1:
            return ()
        return [WholeTask((job,), self._work, self._meter, self._pace, hands_on=self._hands_on) for job in self.jobs]


class RepeatTask(Task):
    """One repeat of a whole batch that is finished."""

    def __init__(self, job: Job, original: Job, meter: Meter, *, share: bool) -> None:
        self.jobs = (job,)
        self._original, self._meter, self._share = original, meter, share

    def run(self, number: int) -> None:
        times, (job,) = Times(), self.jobs
        with times.of(BATCH, len(job.planned)):
            job.copy_from(self._original, share=self._share)
        self._meter.add(times)

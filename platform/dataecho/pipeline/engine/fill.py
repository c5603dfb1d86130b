"""Rows made, and put into their places in a batch: the same in every thread and process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from dataecho.pipeline.accounting.meter import Times
from dataecho.pipeline.batch import Arrays, Layout, RowWriter, layout_of, write_rows
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.work import Made, Work
from dataecho.pipeline.stage import BATCH, Broken, ExampleError
from dataecho.pipeline.storage.store import Entry

#: Where rows of such a layout are written.
Target = Callable[[Layout], Arrays]


def fill(rows: Rows, entries: Sequence[Entry] | None, work: Work, target: Target, times: Times) -> dict[int, Broken]:
    """Make ``rows`` and write them into their places; ``entries`` as in :meth:`Work.make`. Those that are broken, by
    place. Where stages end one by one an example is written as soon as it is made, when it is still in the processor's
    cache. Raises :class:`ExampleError` where an example does not fit the others."""
    if not work.ends_one_by_one:
        made = work.make(rows, entries, times)
        put(made, rows, work, target, times)
        return made.broken
    places = rows.place.tolist()
    broken: dict[int, Broken] = {}
    writer: RowWriter | None = None
    spent = 0.0
    for number, example in enumerate(work.make_each(rows, entries, times)):
        if isinstance(example, Broken):
            broken[places[number]] = example
            continue
        started = time.perf_counter()
        try:
            writer = writer or RowWriter(target(layout_of([example])))
            writer.write(places[number], example)
        except ValueError as error:
            raise misfit(rows, places[number : number + 1], work, error) from error
        spent += time.perf_counter() - started
    if writer is not None:
        times.add(BATCH, len(rows) - len(broken), spent)
    return broken


def put(made: Made, rows: Rows, work: Work, target: Target, times: Times) -> None:
    """Write what was made of ``rows`` into its places. Raises :class:`ExampleError` as :func:`fill`."""
    if not len(made.place):
        return
    with times.of(BATCH, len(made.place)):
        try:
            write_rows(target(layout_of(made.chunk)), made.place, made.chunk)
        except ValueError as error:
            raise misfit(rows, made.place, work, error) from error


def misfit(rows: Rows, place: ArrayLike, work: Work, error: ValueError) -> ExampleError:
    """Of ``rows`` one of those in ``place``, or the only one, does not fit the others."""
    rows = rows[np.isin(rows.place, place)]
    where = work.where(rows.epoch[0], rows.shard[0], rows.k[0])
    if len(rows) > 1:
        where += f" or the {len(rows) - 1} after it"
    return ExampleError(BATCH, where, f"{type(error).__name__}: {error}")

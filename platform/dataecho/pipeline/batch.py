"""What the feed delivers, and the pool its arrays come from."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.pipeline.stage import Chunk
from dataecho.plan.order import Ids
from dataecho.plan.plan import PlannedBatch

Arrays = dict[str, NDArray[Any]]

#: Shape and dtype of one example's fields.
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]


@dataclass(frozen=True)
class Skipped:
    """An item whose first use failed: where it is, the stage, and why."""

    name: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """``arrays``: one array [b, ...] per field; ``weights`` [b] float32: 1, or 0 for padding and for examples that
    failed; ``planned``: the uses the rows come from; ``skipped``: the items that failed here for the first time. The
    arrays are the caller's until :meth:`release`, which is optional and lets them be used again."""

    arrays: Arrays
    weights: NDArray[np.float32]
    planned: PlannedBatch
    skipped: tuple[Skipped, ...] = ()
    _on_release: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def num_fresh(self) -> int:
        """Rows of weight 1 whose item is used for the first time."""
        if not self.skipped:
            return self.planned.num_fresh
        return int(((self.planned.repeat == 0) & (self.weights > 0)).sum())

    @property
    def num_delivered(self) -> int:
        """Rows of weight 1."""
        return int(self.weights.sum())

    def release(self) -> None:
        """The arrays will not be looked at again: a later batch may be written into them. Once is enough."""
        while self._on_release:
            self._on_release.pop()()


class Block:
    """``arrays`` for ``num_batches`` batches one after the other."""

    def __init__(self, layout: Layout, arrays: Arrays, num_batches: int) -> None:
        self.layout, self.arrays, self.num_batches = layout, arrays, num_batches
        self.num_in_use = 0

    def batch(self, number: int) -> Arrays:
        """The arrays of one of them."""
        if self.num_batches == 1:
            return self.arrays
        return {
            name: values[(size := len(values) // self.num_batches) * number : size * (number + 1)]
            for name, values in self.arrays.items()
        }


class BatchPool:
    """Blocks of one or more batches, allocated by ``allocate`` for the layout of the first example that is written, and
    their number; a fresh page of memory costs more than a used one. Thread-safe."""

    def __init__(self, allocate: Callable[[Layout, int], Arrays]) -> None:
        self._allocate = allocate
        self._free: dict[int, list[Block]] = {}
        self._lock = threading.Lock()

    def take(self, layout: Layout, num_batches: int = 1) -> Block:
        """A block for so many batches of such examples."""
        with self._lock:
            free = self._free.get(num_batches)
            block = free.pop() if free else None
        if block is None or block.layout != layout:
            block = Block(layout, self._allocate(layout, num_batches), num_batches)
        block.num_in_use = num_batches
        return block

    def give(self, block: Block) -> None:
        """One of its batches is not used any more; with the last one the block can be taken again."""
        with self._lock:
            block.num_in_use -= 1
            if not block.num_in_use:
                self._free.setdefault(block.num_batches, []).append(block)


def new_arrays(layout: Layout, batch_size: int) -> Arrays:
    """Arrays in ordinary memory, one row an example."""
    return {name: np.empty((batch_size, *shape), dtype=dtype) for name, (shape, dtype) in layout.items()}


def layout_of(chunk: Chunk) -> Layout:
    """The layout of a chunk's first example. Raises ``ValueError`` for what is no dictionary of arrays of numbers."""
    if isinstance(chunk, dict):
        layout = {name: (values.shape[1:], values.dtype) for name, values in chunk.items()}
    elif isinstance(chunk[0], dict):
        arrays = {name: np.asarray(value) for name, value in chunk[0].items()}
        layout = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    else:
        raise ValueError(f"an example must be a dictionary of arrays here, not {type(chunk[0]).__name__}")
    for name, (_, dtype) in layout.items():
        if dtype.hasobject:
            raise ValueError(f"field {name!r} is no array of numbers")
    return layout


def write_rows(arrays: Arrays, place: Ids, chunk: Chunk) -> None:
    """Write every example of ``chunk`` into its row of ``arrays``. Raises ``ValueError`` where one does not fit."""
    if isinstance(chunk, dict):
        _check(arrays, {name: (values.shape[1:], values.dtype) for name, values in chunk.items()})
        contiguous = int(place[-1]) - int(place[0]) + 1 == len(place)
        rows: Any = slice(int(place[0]), int(place[-1]) + 1) if contiguous else place
        for name, values in chunk.items():
            arrays[name][rows] = values
        return
    fields = [(name, target, target.shape[1:], target.dtype) for name, target in arrays.items()]
    for row, example in zip(place.tolist(), chunk, strict=True):
        fits = isinstance(example, dict) and len(example) == len(fields)
        for name, target, shape, dtype in fields:
            value = example.get(name) if fits else None
            if isinstance(value, np.ndarray | np.generic) and value.shape == shape and value.dtype == dtype:
                target[row] = value
            else:  # a number of Python's own, or nothing that could be written
                _check(arrays, layout_of([example]))
                target[row] = example[name]


def _check(arrays: Arrays, layout: Layout) -> None:
    if layout.keys() != arrays.keys():
        raise ValueError(f"examples of one batch have different fields: {sorted(arrays)} and {sorted(layout)}")
    for name, (shape, dtype) in layout.items():
        target = arrays[name]
        if shape != target.shape[1:] or dtype != target.dtype:
            raise ValueError(
                f"field {name!r} is {dtype} {shape} here, {target.dtype} {target.shape[1:]} in the rest of the batch"
            )

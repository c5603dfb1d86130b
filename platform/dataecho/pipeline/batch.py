"""The batches that a feed delivers, and the pool of their arrays."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.pipeline.stage import Chunk, Example, refuse_lost_ends
from dataecho.plan.batch import PlannedBatch
from dataecho.plan.order import Ids

Arrays = dict[str, NDArray[Any]]

#: Shape and dtype of one example's fields.
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]

#: Of arrays, in bytes: what vector units and the frameworks' own arrays have.
ALIGNMENT = 64

#: Batches of so many bytes at most are handed on as the last stage made them; larger ones are cut, so that several
#: workers can share one.
MAX_HANDED_ON = 1 << 21


@dataclass(frozen=True)
class Skipped:
    """An item whose first use failed: where it is, the stage, and why."""

    name: str
    stage: str
    reason: str


@dataclass(slots=True)
class Batch:
    """A batch of a feed: ``batch["image"]`` is a field, ``len(batch)`` the number of rows b.

    ``arrays``: one array [b, ...] per field; ``weights`` [b] float32: 1, or 0 for padding and for examples that
    failed; ``planned``: the uses the rows come from; ``skipped``: the items that failed here for the first time. The
    arrays are the caller's until :meth:`release`, which is optional and lets them be used again. Of records in memory
    and batched stages they can be what the last stage made: views with gaps between the rows, and fields that share
    memory, where it made such views. A field that is not there is a ``KeyError``.

        >>> import numpy as np
        >>> from dataecho import ArraySource, Batch, Feed
        >>> source = ArraySource({"x": np.arange(8.0)})
        >>> with Feed(source, [], batch_size=4, shuffle_buffer=0, seed=0, echo_after="batch", factor=2) as feed:
        ...     batch, again = next(feed), next(feed)
        >>> isinstance(batch, Batch), batch["x"].shape, batch.weights.tolist()
        (True, (4,), [1.0, 1.0, 1.0, 1.0])
        >>> batch.planned.num_fresh, again.planned.num_fresh
        (4, 0)
    """

    arrays: Arrays
    weights: NDArray[np.float32]
    planned: PlannedBatch
    skipped: tuple[Skipped, ...] = ()
    _block: Block | None = field(default=None, repr=False)

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
        block, self._block = self._block, None
        if block is not None:
            block.release()


class Block:
    """``arrays`` for ``num_batches`` batches one after the other, out of ``pool``. ``layout``: what else they can be
    used for; None if they are not to be used again."""

    def __init__(self, pool: BatchPool, arrays: Arrays, num_batches: int, layout: Layout | None) -> None:
        self.arrays, self.num_batches, self.layout = arrays, num_batches, layout
        self.num_bytes = _num_bytes(arrays)
        self.num_in_use = num_batches
        self._pool = pool

    def __del__(self) -> None:
        # Without the pool's lock: this may run in the middle of anything, also of what holds it.
        if self.num_in_use or self.layout is not None:
            self._pool.gone.append(self.num_bytes)

    def share(self, num_users: int) -> None:
        """So many users, instead of one, will release it."""
        with self._pool.lock:
            self.num_in_use += num_users - 1

    def batches(self) -> list[Arrays]:
        """The arrays of each of them."""
        if self.num_batches == 1:
            return [self.arrays]
        length = len(next(iter(self.arrays.values())))
        size = length // self.num_batches
        return [
            {name: values[start : start + size] for name, values in self.arrays.items()}
            for start in range(0, length, size)
        ]

    def release(self) -> None:
        """One of its batches is not used any more."""
        self._pool.give(self)


class BatchPool:
    """Blocks of one or more batches, allocated by ``allocate`` for the layout of the first example that is written, and
    their number; a fresh page of memory costs more than a used one. ``on_growth`` is told when more bytes are held than
    ever before, how many more. Thread-safe. A block that is dropped without a release is not held any more."""

    def __init__(self, allocate: Callable[[Layout, int], Arrays], on_growth: Callable[[int], None]) -> None:
        self._allocate, self._on_growth = allocate, on_growth
        self._free: dict[int, list[Block]] = {}
        self._num_bytes = self._most_bytes = 0
        self.lock = threading.Lock()
        #: Bytes of blocks that were dropped since somebody looked.
        self.gone: deque[int] = deque()
        #: Bytes of one batch, 0 as long as there was none.
        self.batch_bytes = 0

    def take(self, layout: Layout, num_batches: int = 1) -> Block:
        """A block for so many batches of such examples."""
        with self.lock:
            free = self._free.get(num_batches)
            block = free.pop() if free else None
        if block is None or block.layout != layout:
            block = self._holding(Block(self, self._allocate(layout, num_batches), num_batches, layout))
        block.num_in_use = num_batches
        return block

    def hand_on(self, chunk: Chunk, num_batches: int = 1) -> Block | None:
        """A block of what a stage has made for so many whole batches; None where it has to be copied: examples one by
        one, more than :data:`MAX_HANDED_ON` bytes a batch, arrays that cannot be written to or run backwards (which
        not every framework takes), or that keep more memory alive than rows of their own would take."""
        if not isinstance(chunk, dict) or not all(map(_can_be_handed_on, chunk.values())):
            return None
        num_bytes = _num_bytes(chunk)
        owners = {id(owner): owner.nbytes for owner in map(_owner, chunk.values())}
        if num_bytes > MAX_HANDED_ON * num_batches or sum(owners.values()) > num_bytes:
            return None
        return self._holding(Block(self, chunk, num_batches, None))

    def give(self, block: Block) -> None:
        """One of the block's batches is not used any more; with the last one it can be taken again, or is forgotten."""
        with self.lock:
            block.num_in_use -= 1
            if block.num_in_use:
                return
            if block.layout is None:
                self._num_bytes -= block.num_bytes
            else:
                self._free.setdefault(block.num_batches, []).append(block)

    def _holding(self, block: Block) -> Block:
        with self.lock:
            self.batch_bytes = block.num_bytes // block.num_batches
            while self.gone:
                self._num_bytes -= self.gone.popleft()
            self._num_bytes += block.num_bytes
            growth = self._num_bytes - self._most_bytes
            if growth > 0:
                self._most_bytes = self._num_bytes
                self._on_growth(growth)
        return block


def _num_bytes(arrays: Arrays) -> int:
    return sum(values.nbytes for values in arrays.values())


def _owner(values: NDArray[Any]) -> Any:
    return values if values.base is None else values.base


def _can_be_handed_on(values: NDArray[Any]) -> bool:
    return (
        values.flags.writeable
        and not values.dtype.hasobject
        and isinstance(_owner(values), np.ndarray)
        and min(values.strides) >= 0
    )


def new_arrays(layout: Layout, batch_size: int) -> Arrays:
    """Arrays in ordinary memory, one row an example, where frameworks like them: from a multiple of 64 bytes on."""
    arrays = {}
    for name, (shape, dtype) in layout.items():
        num_bytes = int(np.prod((batch_size, *shape), dtype=np.int64)) * dtype.itemsize
        memory = np.empty(num_bytes + ALIGNMENT, dtype=np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        arrays[name] = memory[start : start + num_bytes].view(dtype).reshape(batch_size, *shape)
    return arrays


def layout_of(chunk: Chunk) -> Layout:
    """The layout of a chunk's first example. Raises ``ValueError`` for what is no dictionary of arrays of numbers."""
    if isinstance(chunk, dict):
        layout = {name: (values.shape[1:], values.dtype) for name, values in chunk.items()}
    elif isinstance(chunk[0], dict):
        refuse_lost_ends(chunk[0])
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
    writer = RowWriter(arrays)
    for row, example in zip(place.tolist(), chunk, strict=True):
        writer.write(row, example)


class RowWriter:
    """Writes examples one by one into rows of ``arrays``."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._fields = [(name, target, target.shape[1:], target.dtype) for name, target in arrays.items()]

    def write(self, row: int, example: Example) -> None:
        """Raises ``ValueError`` where it does not fit."""
        fits = isinstance(example, dict) and len(example) == len(self._fields)
        for name, target, shape, dtype in self._fields:
            value = example.get(name) if fits else None
            if isinstance(value, np.ndarray | np.number | np.bool_) and value.shape == shape and value.dtype == dtype:
                target[row] = value
            else:  # a number of Python's own, or nothing that could be written
                _check(self._arrays, layout_of([example]))
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

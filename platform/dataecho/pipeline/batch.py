"""What the feed delivers, and the pool its arrays come from."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.pipeline.stage import Chunk, as_stacked
from dataecho.plan.plan import PlannedBatch

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """``arrays``: one array [b, ...] per field; ``weights`` [b] float32: 1, or 0 for padding; ``planned``: the uses the
    rows come from. The arrays are the caller's until :meth:`release`, which is optional and lets them be used again."""

    arrays: Arrays
    weights: NDArray[np.float32]
    planned: PlannedBatch
    _on_release: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(self.weights)

    def release(self) -> None:
        """The arrays will not be looked at again: a later batch may be written into them. Once is enough."""
        while self._on_release:
            self._on_release.pop()()


class BatchPool:
    """Arrays of one batch each, shaped by the first rows that are written; a fresh page of memory costs more than a
    used one. Thread-safe."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._free: list[Arrays] = []
        self._lock = threading.Lock()

    def take(self, rows: Arrays) -> Arrays:
        """Arrays for one batch whose rows look like ``rows``."""
        with self._lock:
            arrays = self._free.pop() if self._free else {}
        if _layout(arrays) == _layout(rows):
            return arrays
        return {
            name: np.empty((self._batch_size, *values.shape[1:]), dtype=values.dtype) for name, values in rows.items()
        }

    def give(self, arrays: Arrays) -> None:
        """Take arrays back."""
        with self._lock:
            self._free.append(arrays)


def _layout(arrays: Arrays) -> dict[str, Any]:
    return {name: (values.shape[1:], values.dtype) for name, values in arrays.items()}


def as_rows(chunk: Chunk) -> Arrays:
    """A chunk as it is written into a batch. Raises ``ValueError`` where its examples are not arrays of one shape."""
    rows = {name: np.asarray(values) for name, values in as_stacked(chunk).items()}
    for name, values in rows.items():
        if values.dtype == object:
            raise ValueError(f"field {name!r} is no array of numbers")
    return rows


def write_rows(arrays: Arrays, start: int, rows: Arrays) -> None:
    """Write ``rows`` from row ``start`` on. Raises ``ValueError`` where they do not fit the batch's first rows."""
    if rows.keys() != arrays.keys():
        raise ValueError(f"examples of one batch have different fields: {sorted(arrays)} and {sorted(rows)}")
    for name, values in rows.items():
        target = arrays[name]
        if values.shape[1:] != target.shape[1:] or values.dtype != target.dtype:
            raise ValueError(
                f"field {name!r} is {values.dtype} {values.shape[1:]} here, "
                f"{target.dtype} {target.shape[1:]} in the rest of the batch"
            )
        target[start : start + len(values)] = values

"""Arrays of batches in memory that this process and its worker processes share. Nothing of it has a name on a disk."""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from dataecho.errors import SettingError
from dataecho.pipeline.batch import Arrays, Layout
from dataecho.posix import reserve

_ALIGNMENT = 64
_numbers = itertools.count()


class SharedArrays(dict):
    """Arrays of ``num_rows`` rows by field, in a file without a name that other processes can map. ``number`` is never
    used again; the memory goes with the last array. Raises :class:`SettingError` where it finds no room."""

    def __init__(self, layout: Layout, num_rows: int) -> None:
        self.layout, self.num_rows, self.number = layout, num_rows, next(_numbers)
        folder = Path("/dev/shm")
        size = _size(layout, num_rows)
        try:
            self.file = tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None)  # noqa: SIM115
            reserve(self.file.fileno(), size)
        except OSError as error:
            raise SettingError(
                "pipeline.num_processes",
                f"batches of {size} bytes",
                allowed=f"what fits into {folder} ({error.strerror})",
                cure="Give it more room (docker run --shm-size) or more open files (ulimit -n), use smaller batches, "
                "or pipeline=threads.",
            ) from error
        super().__init__(mapped(self.file.fileno(), layout, num_rows))


def mapped(file: int, layout: Layout, num_rows: int) -> Arrays:
    """The arrays in an open file."""
    memory = mmap.mmap(file, _size(layout, num_rows))
    arrays, offset = {}, 0
    for name, (shape, dtype) in layout.items():
        size = num_rows * _row_bytes(shape, dtype)
        flat = np.frombuffer(memory, dtype=np.uint8, count=size, offset=offset)
        arrays[name] = flat.view(dtype).reshape(num_rows, *shape)
        offset += _aligned(size)
    return arrays


def _size(layout: Layout, num_rows: int) -> int:
    return sum(_aligned(num_rows * _row_bytes(shape, dtype)) for shape, dtype in layout.values())


def _row_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _aligned(size: int) -> int:
    return max(-(-size // _ALIGNMENT), 1) * _ALIGNMENT

"""A cache of examples: in memory, and beyond a limit in a temporary file."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataecho.errors import DataError
from dataecho.pipeline.stage import Example, frozen, num_bytes
from dataecho.posix import require_posix

_SMALLEST = 4096  # bytes strings below this stay in memory: a record's file is what is large


@dataclass(frozen=True)
class Kept:
    """An example in the cache."""

    example: Example
    num_bytes: int
    num_spilled: int


class SpillCache:
    """Examples of ``max_bytes`` in memory; of what comes on top, the byte strings lie in ``spill``. Thread-safe.

    ``account(num_bytes, num_spilled)`` is told of everything that comes (positive) and goes (negative).
    """

    def __init__(
        self, account: Callable[[int, int], None], *, max_bytes: int | None = None, spill: Spill | None = None
    ) -> None:
        self._account = account
        self._max_bytes = max_bytes
        self._spill = spill
        self._in_memory = 0
        self._lock = threading.Lock()

    def put(self, example: Example) -> Kept:
        """Keep an example of its own memory. Raises :class:`DataError` where the spill is full."""
        example = frozen(example)
        size, num_spilled = num_bytes(example), 0
        with self._lock:
            over = self._max_bytes is not None and self._in_memory + size > self._max_bytes
        if over and self._spill is not None:
            example, num_spilled = self._spilled(example)
        with self._lock:
            self._in_memory += size - num_spilled
        self._account(size, num_spilled)
        return Kept(example, size, num_spilled)

    def get(self, kept: Kept) -> Example:
        """The example, as it was put."""
        return self._restored(kept.example) if kept.num_spilled else kept.example

    def remove(self, kept: Kept) -> None:
        """It is not needed any more."""
        if kept.num_spilled:
            self._free(kept.example)
        with self._lock:
            self._in_memory -= kept.num_bytes - kept.num_spilled
        self._account(-kept.num_bytes, -kept.num_spilled)

    def _spilled(self, example: Example) -> tuple[Example, int]:
        assert self._spill is not None
        if isinstance(example, dict):
            parts: dict[Any, Example] = {}
            total = 0
            try:
                for name, value in example.items():
                    parts[name], size = self._spilled(value)
                    total += size
            except BaseException:
                self._free(parts)
                raise
            return parts, total
        if isinstance(example, bytes) and len(example) >= _SMALLEST:
            return self._spill.write(example), len(example)
        return example, 0

    def _restored(self, example: Example) -> Example:
        assert self._spill is not None
        if isinstance(example, dict):
            return {name: self._restored(value) for name, value in example.items()}
        return self._spill.read(example) if isinstance(example, Extent) else example

    def _free(self, example: Example) -> None:
        assert self._spill is not None
        if isinstance(example, dict):
            for value in example.values():
                self._free(value)
        elif isinstance(example, Extent):
            self._spill.free(example)


@dataclass(frozen=True)
class Extent:
    """A stretch of the spill."""

    offset: int
    length: int
    room: int


class Spill:
    """A file without a name, at most ``max_bytes`` long, in ``folder`` (None: where temporary files go). Space that was
    freed is used again by anything of about the same size: rooms come in four sizes per power of two. Thread-safe."""

    def __init__(self, *, max_bytes: int, folder: Path | None = None) -> None:
        self._max_bytes, self._folder = max_bytes, folder
        self._file: Any = None
        self._end = 0
        self._free: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    def write(self, data: bytes) -> Extent:
        """Keep ``data``. Raises :class:`DataError` where the file would grow beyond its limit, or the disk is full."""
        room = _room(len(data))
        with self._lock:
            if self._file is None:
                self._file = self._opened()
            free = self._free.get(room)
            offset = free.pop() if free else self._end
            if offset == self._end:
                if self._end + room > self._max_bytes:
                    raise DataError(
                        f"The spill is full: {self._end} bytes of records wait in it, pipeline.max_spill allows "
                        f"{self._max_bytes}. Raise pipeline.max_spill or pipeline.max_waiting, or use a smaller "
                        "task.shuffle_buffer."
                    )
                self._end += room
        extent = Extent(offset, len(data), room)
        try:
            _write_all(self._file.fileno(), data, offset)
        except OSError as error:
            self.free(extent)
            raise self._unusable(error) from error
        return extent

    def read(self, extent: Extent) -> bytes:
        """The bytes that were written there. Raises :class:`DataError` where they are not there any more."""
        data = bytearray()
        while len(data) < extent.length:
            piece = os.pread(self._file.fileno(), extent.length - len(data), extent.offset + len(data))
            if not piece:
                raise DataError(
                    f"The spill in {self._folder or tempfile.gettempdir()} was cut short: {extent.length} bytes were "
                    f"written at {extent.offset}, {len(data)} are left. Nobody else may write to it."
                )
            data += piece
        return bytes(data)

    def free(self, extent: Extent) -> None:
        """Its space may be used again."""
        with self._lock:
            self._free.setdefault(extent.room, []).append(extent.offset)

    def close(self) -> None:
        """The file is gone."""
        if self._file is not None:
            self._file.close()

    def _opened(self) -> Any:
        require_posix("pipeline.max_waiting", "too little", cure="Raise it, or use a smaller task.shuffle_buffer.")
        try:
            return tempfile.TemporaryFile(dir=self._folder, prefix="dataecho-spill-")
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> DataError:
        folder = self._folder or tempfile.gettempdir()
        return DataError(
            f"The spill in {folder} cannot be written: {error.strerror} ({self._end} bytes of records wait in it, "
            "pipeline.max_spill allows more). Make room there, name another folder (the environment's TMPDIR), raise "
            "pipeline.max_waiting, or use a smaller task.shuffle_buffer."
        )


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        num_written = os.pwrite(file, view, offset)
        view, offset = view[num_written:], offset + num_written


def _room(length: int) -> int:
    step = 1 << max(length.bit_length() - 3, 0)
    return -(-length // step) * step

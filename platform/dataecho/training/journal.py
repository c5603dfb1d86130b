"""A file of JSON lines that only grows, and is cut at a checkpoint's position on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataecho.errors import SettingError


class Journal:
    """Writer of ``path``; keeps the first ``position`` bytes and drops the rest.

    Raises :class:`SettingError` if the file is shorter than ``position``: the folder lost data that the checkpoint has.
    """

    def __init__(self, path: Path, *, position: int = 0) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - held open for the run
        size = self._file.seek(0, os.SEEK_END)
        if size < position:
            self._file.close()
            raise SettingError(
                str(path),
                f"{size} bytes",
                allowed=f"at least the {position} bytes that the checkpoint covers",
                cure="Restore the run folder, or start a new run.",
            )
        self._file.truncate(position)
        self._position = position

    @property
    def position(self) -> int:
        """Bytes written: everything before it is on disk once :meth:`flush` has returned."""
        return self._position

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line, whole or not at all: raises ``OSError`` where it cannot be written, and may be repeated."""
        data = json.dumps(line).encode() + b"\n"
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file.fileno(), data[written:])
        except OSError:
            self._file.truncate(self._position)
            raise
        self._position += len(data)

    def flush(self) -> None:
        """Force what was written to the disk; call before a checkpoint that covers it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()

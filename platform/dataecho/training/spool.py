"""The local, append-only record of a run's metrics: one JSON line per mark, cut at the checkpoint's position on resume.

It is the truth about a run; trackers send from it, and may be late, slow or absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataecho.errors import SettingError

FILE_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class Entry:
    """The metrics of one mark: ``step`` in fresh examples, ``time_ms`` since the Unix epoch, ``end`` the byte position
    in the spool just after this entry."""

    step: int
    time_ms: int
    metrics: Mapping[str, float]
    end: int


class Spool:
    """Writer of ``metrics.jsonl`` in ``folder``; keeps the first ``position`` bytes and drops the rest.

    Raises :class:`SettingError` if the file is shorter than ``position``: the folder lost data that the checkpoint has.
    """

    def __init__(self, folder: Path, *, position: int = 0) -> None:
        self._path = folder / FILE_NAME
        self._file = open(self._path, "ab")  # noqa: SIM115 - held open for the run
        size = self._file.seek(0, os.SEEK_END)
        if size < position:
            self._file.close()
            raise SettingError(
                str(self._path),
                f"{size} bytes",
                allowed=f"at least the {position} bytes that the checkpoint covers",
                cure="Restore the run folder, or start a new run.",
            )
        self._file.truncate(position)
        self._file.seek(position)

    @property
    def position(self) -> int:
        """Bytes written: everything before it is on disk once :meth:`flush` has returned."""
        return self._file.tell()

    def append(self, step: int, metrics: Mapping[str, float], *, time_ms: int) -> None:
        """Add one mark's metrics."""
        line = json.dumps({"step": int(step), "time_ms": int(time_ms), "metrics": dict(metrics)})
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def flush(self) -> None:
        """Force what was written to the disk; call before a checkpoint that covers it."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        if not self._file.closed:
            self.flush()
            self._file.close()


def read_spool(folder: Path, *, start: int = 0, end: int | None = None) -> Iterator[Entry]:
    """The entries of ``folder``'s spool between two byte positions that entries begin or end at.

    A torn last line (the process died while writing) is left out.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(start)
        position = start
        for line in file:
            position += len(line)
            if not line.endswith(b"\n") or (end is not None and position > end):
                return
            fields = json.loads(line)
            yield Entry(fields["step"], fields["time_ms"], fields["metrics"], position)

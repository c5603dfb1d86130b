"""The local, append-only record of a run's metrics: one JSON line per mark, cut at the checkpoint's position on resume.

It is the complete record of a run. Trackers send from it, and may be late, slow or absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataecho.training.journal import Journal

FILE_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class LoggedMark:
    """The metrics of one mark: ``step`` in fresh examples, ``time_ms`` since the Unix epoch, ``end`` the byte position
    in the spool just after this entry."""

    step: int
    time_ms: int
    metrics: Mapping[str, float]
    end: int


class Spool:
    """Writer of ``metrics.jsonl`` in ``folder``, a :class:`Journal` of entries."""

    def __init__(self, folder: Path, *, position: int = 0) -> None:
        self._journal = Journal(folder / FILE_NAME, position=position)

    @property
    def position(self) -> int:
        """See :attr:`Journal.position`."""
        return self._journal.position

    def append(self, step: int, metrics: Mapping[str, float], *, time_ms: int) -> None:
        """Add one mark's metrics."""
        self._journal.append({"step": int(step), "time_ms": int(time_ms), "metrics": dict(metrics)})

    def flush(self) -> None:
        """See :meth:`Journal.flush`."""
        self._journal.flush()

    def close(self) -> None:
        """Flush and close."""
        self._journal.close()


def read_spool(folder: Path, *, start: int = 0, end: int | None = None) -> Iterator[LoggedMark]:
    """The entries of ``folder``'s spool between two byte positions that entries begin or end at.

    An incomplete last line, of a process that died while writing, is left out.
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
            yield LoggedMark(fields["step"], fields["time_ms"], fields["metrics"], position)

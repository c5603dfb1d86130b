"""The file that a journal of studies is kept in: one JSON record a line, written by several processes.

A process that dies, or a disk that is full, leaves half a line. The next writer removes it. A file in which an earlier
version has appended to half a line is read all the same: of such a line every whole record, of a line that is none
nothing, with a warning.
"""

from __future__ import annotations

import json
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages.journal import BaseJournalBackend

log = logging.getLogger(__name__)

_BEGIN = b'{"op_code":'  # of every record; inside a string its quotes would be escaped


class JournalFile(BaseJournalBackend):
    """Optuna's journal in ``path``, made if it is missing. The lock is the kernel's and goes with its holder, however
    that dies; Optuna's own lock files make the next process wait for 30 s."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path.with_suffix(".lock"))
        # Lines that were read: the number of their first record, and where they begin.
        self._numbers, self._starts = [0], [0]
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, open(path, "ab") as file:
            _drop_torn_line(path, file.fileno())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add records, each a line. Raises ``OSError`` where they cannot be written: then they are not there, or may
        be repeated."""
        data = b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in logs)
        with self._lock, open(self._path, "ab", buffering=0) as file:
            _drop_torn_line(self._path, file.fileno())
            try:
                while data:
                    data = data[os.write(file.fileno(), data) :]
            except OSError:
                _drop_torn_line(self._path, file.fileno())
                raise
            os.fsync(file.fileno())

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Records from the given number on, as far as their lines are complete."""
        line_number = bisect_right(self._numbers, log_number_from) - 1
        # Of lines without a record several have the same number: the last one was read as well.
        number, position = self._numbers[line_number], self._starts[line_number]
        with open(self._path, "rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                is_new = position == self._starts[-1]
                records = _records(line)
                if is_new and not _is_one_record(line, records):
                    log.warning("%s, byte %d: %s", self._path, position, _what_was_read(len(records)))
                position += len(line)
                if is_new:
                    self._numbers.append(number + len(records))
                    self._starts.append(position)
                for record in records:
                    number += 1
                    if number > log_number_from:
                        yield record


def _records(line: bytes) -> list[dict[str, Any]]:
    """Every whole record in a line: one, as a rule."""
    text, found, begin = line.decode(errors="replace"), [], 0
    decoder = json.JSONDecoder()
    while (begin := text.find(_BEGIN.decode(), begin)) >= 0:
        try:
            record, begin = decoder.raw_decode(text, begin)
        except ValueError:
            begin += 1
        else:
            found.append(record)
    return found


def _is_one_record(line: bytes, records: list[dict[str, Any]]) -> bool:
    return len(records) == 1 and line.startswith(_BEGIN) and line.find(_BEGIN, 1) < 0


def _what_was_read(num_records: int) -> str:
    if num_records:
        return f"a line that was not written to its end is glued to the next; {num_records} whole records were read."
    return "a line that cannot be read is left out. A trial whose end it told is told again from its folder."


def _drop_torn_line(path: Path, descriptor: int) -> None:
    """Remove what comes after the last line break: with what is written after it, it would be one line."""
    size = os.fstat(descriptor).st_size
    with open(path, "rb") as file:
        start, tail = size, b""
        while start > 0 and b"\n" not in tail:
            start = max(0, start - 4096)
            file.seek(start)
            tail = file.read(size - start)
    end = start + tail.rfind(b"\n") + 1
    if end < size:
        log.warning("%s ended in a torn line, which was dropped.", path)
        os.ftruncate(descriptor, end)

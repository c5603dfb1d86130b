"""The journal file of studies: one JSON record a line, written by several processes.

A process that dies, or a full disk, leaves an incomplete line; the next writer removes it. Earlier versions appended to
incomplete lines: of such a line every whole record is read, with a warning; a line without one is skipped, with a
warning."""

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

_BEGIN = b'{"op_code":'  # the start of every record; inside a string its quotes would be escaped


class JournalFile(BaseJournalBackend):
    """Optuna's journal in ``path``, created if missing. The kernel releases its lock when the holder dies; after
    Optuna's own lock files the next process would wait for 30 s."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path.with_suffix(".lock"))
        # Of every line read: the number of its first record, and its offset in bytes.
        self._numbers, self._starts = [0], [0]
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, open(path, "ab") as file:
            _drop_torn_line(path, file.fileno())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, one a line. Raises ``OSError`` where that fails; the records may then be appended again."""
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
        """Yield the records of complete lines, from the given number on."""
        line_number = bisect_right(self._numbers, log_number_from) - 1
        # Lines without a record share a number with the next line: start at the last of them.
        number, position = self._numbers[line_number], self._starts[line_number]
        with open(self._path, "rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                is_new = position == self._starts[-1]
                records = _records(line)
                if is_new and not _is_one_record(line, records):
                    log.warning("%s, byte %d: %s", self._path, position, _damage(len(records)))
                position += len(line)
                if is_new:
                    self._numbers.append(number + len(records))
                    self._starts.append(position)
                for record in records:
                    number += 1
                    if number > log_number_from:
                        yield record


def _records(line: bytes) -> list[dict[str, Any]]:
    """Return every whole record in a line, normally one."""
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


def _damage(num_records: int) -> str:
    if num_records:
        return f"a line that was not written to its end is glued to the next; {num_records} whole records were read."
    return "a line that cannot be read is left out. A trial whose end it told is told again from its folder."


def _drop_torn_line(path: Path, descriptor: int) -> None:
    """Remove what follows the last line break, so that the next record starts a line of its own."""
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

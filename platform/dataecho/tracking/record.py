"""``tracking.json`` in a run folder: what a tracking server has received of the run, and what is left to send."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

FILE_NAME = "tracking.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One state of the file. It holds no secrets.

    ``uuid`` is chosen by the client and becomes the run's tag ``dataecho.uuid``; ``creating`` means that a run with it
    may exist although ``run_id`` is unknown; ``described`` that parameters, tags and dataset have arrived.

    Byte positions of the spool: ``covered`` may be sent, ``sent`` has arrived, and up to ``sending`` (if above
    ``sent``) it is unknown what has. ``sent_entry`` and ``sending_entry`` are step and time of the entries that end
    there: they show whether the spool was cut below and written anew. ``rewound_to_step``: the server has points up to
    this step that the spool lost, so there one point a step is enough.

    ``status`` is empty until the run ends. ``artifacts`` (relative to the run folder if inside it) but for the
    ``sent_artifacts``, ``final_tags`` and, while not ``terminated``, the status still have to be sent. ``complete``:
    nothing is left.

    ``parent_uuid``: the ``uuid`` of the run that this one is a child of; ``has_children``: others may name this one so.
    """

    uuid: str
    tracking_uri: str
    experiment: str
    name: str
    start_time_ms: int
    artifact_root: str | None = None
    parent_uuid: str = ""
    has_children: bool = False
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    experiment_id: str = ""
    run_id: str = ""
    creating: bool = False
    described: bool = False
    covered: int = 0
    sent: int = 0
    sending: int = 0
    sent_entry: tuple[int, int] | None = None
    sending_entry: tuple[int, int] | None = None
    rewound_to_step: int = -1
    status: str = ""
    end_time_ms: int = 0
    artifacts: tuple[str, ...] = ()
    sent_artifacts: tuple[str, ...] = ()
    final_tags: Mapping[str, str] = field(default_factory=dict)
    terminated: bool = False
    complete: bool = False


# The fields of a run of which nothing has been sent, as far as is known.
NOTHING_SENT: Mapping[str, Any] = {
    "experiment_id": "",
    "run_id": "",
    "creating": False,
    "described": False,
    "sent": 0,
    "sending": 0,
    "sent_entry": None,
    "sending_entry": None,
    "rewound_to_step": -1,
    "sent_artifacts": (),
    "terminated": False,
    "complete": False,
}


def read_record(folder: Path) -> Record | None:
    """The record in ``folder``; None if there is none. Raises ValueError for another file of that name."""
    try:
        text = (folder / FILE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(text)
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return Record(**{**fields, **lists})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / FILE_NAME} is not a tracking record: {error}") from error


def tracked_folders(root: Path) -> list[Path]:
    """The folders with a record, ``root`` and those below it, sorted by name."""
    return sorted(path.parent for path in root.rglob(FILE_NAME))


@final
class RecordFile:
    """The only writer of the record in ``folder``. Thread-safe."""

    def __init__(self, folder: Path, record: Record) -> None:
        self._path = folder / FILE_NAME
        self._record = record
        self._lock = threading.Lock()
        self._released = False

    @property
    def now(self) -> Record:
        """The record as it is on disk, or would be after :meth:`release`."""
        return self._record

    def update(self, **changes: Any) -> None:
        """Change fields and write the file atomically, also without changes."""
        with self._lock:
            self._record = dataclasses.replace(self._record, **changes)
            if not self._released:
                self._write()

    def release(self) -> None:
        """Stop writing: from now on another process may own the file."""
        with self._lock:
            self._released = True

    def _write(self) -> None:
        beside = self._path.with_suffix(".json.new")
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(self._record), file, indent=1)
            file.flush()
            os.fsync(file.fileno())  # without it, a power cut may leave an empty file
        os.replace(beside, self._path)

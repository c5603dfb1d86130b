"""The processes that work on one sweep, on one or several machines, and which of them leads it.

Only the leader asks for points. Membership and leadership are kernel locks on files in the sweep's folder: the kernel
releases them when their holder dies, so leadership is never stale and never held twice. All members must see the folder
on a file system with locks (local, NFS 4).
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from pathlib import Path

from filelock import FileLock, Timeout


class SweepMember:
    """This process as a member of the sweep in ``folder``, which runs ``num_slots`` trials at a time. A context
    manager."""

    def __init__(self, folder: Path, *, num_slots: int) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._folder = folder / "members"
        self._num_slots = num_slots
        self._leadership = FileLock(folder / "asks.lock", thread_local=False)
        self._membership = FileLock(self._folder / f"{self.name}.lock", thread_local=False)

    def __enter__(self) -> SweepMember:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._membership.acquire()
        path = self._folder / f"{self.name}.json"
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({"num_slots": self._num_slots}))
        draft.replace(path)
        return self

    def __exit__(self, *error: object) -> None:
        (self._folder / f"{self.name}.json").unlink(missing_ok=True)
        self._leadership.release()
        self._membership.release()
        (self._folder / f"{self.name}.lock").unlink(missing_ok=True)

    @property
    def is_leader(self) -> bool:
        """Whether this process asks for points."""
        return bool(self._leadership.is_locked)

    def try_to_lead(self) -> bool:
        """Become the leader if there is none; True if this process has just become it."""
        if self.is_leader:
            return False
        try:
            self._leadership.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def other_members(self) -> dict[str, int]:
        """The number of slots of every other living member, by its name. Removes the files of dead members."""
        found = {}
        for path in self._folder.glob("*.json"):
            if path.stem == self.name:
                continue
            if self.is_alive(path.stem):
                try:
                    found[path.stem] = int(json.loads(path.read_text())["num_slots"])
                except (FileNotFoundError, ValueError):  # it has just left
                    continue
            else:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
        return found

    def is_alive(self, name: str) -> bool:
        """Whether the member of this name still runs."""
        if name == self.name:
            return True
        path = self._folder / f"{name}.lock"
        if not path.exists():
            return False
        probe = FileLock(path, thread_local=False)
        try:
            probe.acquire(timeout=0)
        except Timeout:
            return True
        probe.release()
        return False

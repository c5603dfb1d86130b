"""The shells and machines that work on one sweep, and which of them asks for points.

Locks of the kernel on files in the sweep's folder: one that says "I ask", and one for each member that says "I live". A
lock goes when its holder dies, at once and without a clock, so that a lease is never stale and never held by two. The
folder has to be on a file system that all of them see, with locks (local, NFS 4).
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from pathlib import Path

from filelock import FileLock, Timeout


class Membership:
    """This process's part in the sweep in ``folder``, with room for ``num_slots`` trials. A context manager."""

    def __init__(self, folder: Path, *, num_slots: int) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._folder = folder / "members"
        self._num_slots = num_slots
        self._lease = FileLock(folder / "asks.lock", thread_local=False)
        self._life = FileLock(self._folder / f"{self.name}.lock", thread_local=False)

    def __enter__(self) -> Membership:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._life.acquire()
        path = self._folder / f"{self.name}.json"
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({"num_slots": self._num_slots}))
        draft.replace(path)
        return self

    def __exit__(self, *error: object) -> None:
        (self._folder / f"{self.name}.json").unlink(missing_ok=True)
        self._lease.release()
        self._life.release()
        (self._folder / f"{self.name}.lock").unlink(missing_ok=True)

    @property
    def asks(self) -> bool:
        """Whether this process holds the lease."""
        return bool(self._lease.is_locked)

    def take_lease(self) -> bool:
        """Try to become the one that asks; True if it has just become that."""
        if self.asks:
            return False
        try:
            self._lease.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def others(self) -> dict[str, int]:
        """The names of the other members that live, and their slots. Takes the dead ones' files away."""
        found = {}
        for path in self._folder.glob("*.json"):
            if path.stem == self.name:
                continue
            if self.lives(path.stem):
                try:
                    found[path.stem] = int(json.loads(path.read_text())["num_slots"])
                except (FileNotFoundError, ValueError):  # it has just left
                    continue
            else:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
        return found

    def lives(self, name: str) -> bool:
        """Whether the member of that name still runs."""
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

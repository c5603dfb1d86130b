"""The functions that run on a node of a Ray cluster. Frameworks are imported by the trial only."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from dataecho.environment import prepare

#: Seconds to wait for a run folder's lock. A node that Ray has lost may still write: its raylet ends within a minute
#: without its head, and NFS releases the lock of a dead machine after another half.
LOCK_TIMEOUT = 120.0


def check_node(token: str, cwd: str) -> None:
    """Raise ``OSError`` where this node cannot run trials: where it lacks the folders or the code. ``token``: a file
    that the pool has created in the sweep's folder."""
    folder = os.path.dirname(token)
    if not os.path.exists(token):
        raise FileNotFoundError(f"{folder} is not shared with {socket.gethostname()}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written on {socket.gethostname()}")
    if not os.path.isdir(cwd):
        raise FileNotFoundError(f"{cwd}, where the sweep was started, is not shared with {socket.gethostname()}")
    import dataecho_search.workers.trial_process  # noqa: F401


def run(token: str, cwd: str, folder: str, payload: bytes) -> tuple[int | None, str]:
    """Run a trial and return the exit code and reason of its :class:`~dataecho_search.workers.pool.Completion`. Raises
    as :func:`check_node`."""
    check_node(token, cwd)
    prepare()
    os.chdir(cwd)
    if not _wait_for_lock(Path(folder)):
        return None, f"{folder} is still written by a process on a node that was taken for lost"
    from dataecho_search.workers.trial_process import execute

    return execute(payload), ""


def _wait_for_lock(folder: Path) -> bool:
    """Wait until no other process trains in ``folder``, as one on an unreachable node may; False after the timeout."""
    lock = folder / "run.lock"
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=LOCK_TIMEOUT):
            return True
    except Timeout:
        return False

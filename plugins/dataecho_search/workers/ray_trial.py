"""What runs on a node of a Ray cluster. Nothing heavy is imported before the trial says what it needs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from dataecho.environment import prepare

#: So long may a process still write that a node runs which Ray takes for lost: a raylet without its head ends within a
#: minute, and the lock of a machine that is gone is given up by NFS after another half.
SECONDS_TO_BE_ALONE = 120.0


def look(token: str, cwd: str) -> None:
    """Raise where this node cannot run trials of the sweep: ``token`` is a file that the pool has made in the sweep's
    folder."""
    folder = os.path.dirname(token)
    if not os.path.exists(token):
        raise FileNotFoundError(f"{folder} is not shared with {socket.gethostname()}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written on {socket.gethostname()}")
    if not os.path.isdir(cwd):
        raise FileNotFoundError(f"{cwd}, where the sweep was started, is not shared with {socket.gethostname()}")
    import dataecho_search.workers.trial_process  # noqa: F401


def run(token: str, cwd: str, folder: str, payload: bytes) -> tuple[int | None, str]:
    """Run a job; what its :class:`~dataecho_search.workers.pool.Completion` says. Raises what :func:`look` does."""
    look(token, cwd)
    prepare()
    os.chdir(cwd)
    if not _is_alone(Path(folder)):
        return None, f"{folder} is still written by a process on a node that was taken for lost"
    from dataecho_search.workers.trial_process import execute

    return execute(payload), ""


def _is_alone(folder: Path) -> bool:
    """Wait until no other process trains in ``folder``: one on a node that Ray cannot reach may still do so."""
    lock = folder / "run.lock"
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=SECONDS_TO_BE_ALONE):
            return True
    except Timeout:
        return False

"""Calls of the operating system that Windows has not, or only Linux has. A part that needs one says so when it is used,
not when it is imported."""

from __future__ import annotations

import os
import sys
from typing import Any

from dataecho.errors import SettingError

fcntl: Any
try:
    import fcntl
except ImportError:
    fcntl = None


def require_posix(key: str, value: Any, *, cure: str) -> None:
    """Raise :class:`SettingError` where ``key=value`` needs calls that this system has not."""
    if fcntl is None or not {"pread", "pwrite"} <= set(dir(os)):
        raise SettingError(
            key, value, allowed=f"other values on {sys.platform}: this one needs Linux or macOS", cure=cure
        )


def usable_cores() -> int:
    """The number of cores that this process may use; those of the machine where the system does not tell."""
    return len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count() or 1


def reserve(file: int, size: int) -> None:
    """Give an open file ``size`` bytes. On Linux they are there then, or it is an ``OSError``; elsewhere a full disk
    shows when they are written."""
    if "posix_fallocate" in dir(os):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)
